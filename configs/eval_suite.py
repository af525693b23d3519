"""All data sets to score a model on: biomedgpt eval --config=configs/eval_suite.py --model=runs/instruct --out=OUT"""

from eval import answering
from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, root="data", sets=(), instruct="")
    return ConfigDict(
        {
            "root": args["root"],  # prepared data is looked for in its folders
            "sets": args["sets"],  # NAME or NAME:SPLIT each, of a folder or of a data set; (): all that are there
            "train_split": "train",  # where majority baselines come from, of data that has it
            "limit": 0,  # questions of each set, evenly spread; 0: all
            "redo": False,  # ask again where OUT holds answers of another model, other data or other settings
            # Of each task: protocols beside the one in the data set's row, and tokens that an answer may take.
            "tasks": {
                "VQA": {"protocols": ("strict/v1", "llava-med/v1", "biomedgpt/v1"), "max_new_tokens": 32},
                "question answering": {"protocols": (), "max_new_tokens": 32},
                "text understanding": {"protocols": ("biomedgpt/v1",), "max_new_tokens": 32},
                "classification": {"protocols": ("biomedgpt/v1",), "max_new_tokens": 32},
                "captioning": {"protocols": ("biomedgpt-caption/v1",), "max_new_tokens": 128},
                "summarisation": {"protocols": ("biomedgpt-summary/v1",), "max_new_tokens": 128},
                "other": {"protocols": (), "max_new_tokens": 64},  # data of your own
            },
            **answering(args["instruct"]),
        }
    )
