"""Your own files: biomedgpt prepare --out=data/mine --config=configs/data/own.py:layout=llava,train=train.json \
    --config.source=raw/mine --config.own.images=images

Layouts: llava (JSON or JSONL with `conversations`), tsv (with a header), table (a Hugging Face datasets folder, Parquet
or Arrow), tfds (a prepared TFDS folder, ArrayRecord), and BiomedGPT's headerless files: biomedgpt-vqa,
biomedgpt-classification, biomedgpt-caption, biomedgpt-nli, biomedgpt-summary, biomedgpt-trial (the order of its columns
was never published: --config.own.trial_order); for pre-training biomedgpt-vision_language, biomedgpt-text,
biomedgpt-image and biomedgpt-detection. Rows that cannot be used are named,
with their file and line, and stop the run unless --config.max_bad_share allows for them.
"""

from dataset import dataset
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from biomedgpt_jax.verbs.config_args import parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, layout="llava", name="own", train="", validation="", test="")
    config = dataset(args["name"])
    config.own = ConfigDict(
        {
            "layout": args["layout"],
            # split -> file; layouts that are a folder name their splits themselves
            "files": {name: args[name] for name in ("train", "validation", "test") if args[name]},
            "images": ".",  # folder of the images inside the source
            "columns": {
                "question": "question",
                "answer": "answer",
                "conversations": placeholder(str),  # instead of question and answer
                "image": "image",
                "id": placeholder(str),
                "meta": (),
            },
            "trial_order": ("id", "note", "criteria", "judgement"),
            "licence": "not stated",
        }
    )
    return config
