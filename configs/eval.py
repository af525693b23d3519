"""What to ask a model: biomedgpt eval --config=configs/eval.py:data=data/vqa_rad --model=runs/instruct"""

from typing import Any

from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, data="", split="test", protocol="strict/v1", instruct="")
    return ConfigDict(
        {
            "data": args["data"],
            "split": args["split"],
            "train_split": "train",  # where the majority baseline comes from; "" of data that has none
            "limit": 0,  # questions to ask, evenly spread over the split; 0: all
            "protocol": args["protocol"],  # of eval/protocols.py
            "candidates": "",  # for llava-med/v1: a JSON list of answers, which adds its open_accuracy over that list
            "max_new_tokens": 32,
            **answering(args["instruct"]),
        }
    )


def answering(instruct: str) -> dict[str, Any]:
    """How any question is put and answered."""
    return {
        "instruct": instruct,  # "" as it stands; a wording 1 to 8 or its name, any, held-out, all
        "instruct_seed": 0,  # of any and held-out
        "features": "",  # a cache made by `biomedgpt prepare --features`, read in the place of images
        "dtype": "float32",
        "batch_rows": 16,
        "pairs": {  # of a BiomedGPT; "" and 0: as its folder says
            "image_size": 0,
            "task": "",
            "hint": "",  # none: no metadata is told, though the model learned with some
            "words": "",
            "answers": "",  # a file with a closed list, an answer on each line, or a run's answers.json
            "open": False,  # any words, though the folder has a closed list
            "method": "greedy",  # greedy, beam, or candidates: all answers of the closed list
            "beams": 1,
            "length_penalty": 0.0,
            "no_repeat": 0,
            "min_length": 1,  # tokens of what a beam says, as published
        },
    }
