"""An instruction mixture of prepared data sets, without what evaluation sets hold.

    biomedgpt mix --out=data/mixture --config=configs/mixture.py:data=data/slake+data/meqsum,eval=data/vqa_rad

Sets are joined by `+`. Numbers for each of them: --config.weights="(2.0,1.0)" --config.caps="(5000,0)".
"""

from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, data=(), eval=(), samples=0, seed=0)
    return ConfigDict(
        {
            "name": "mixture",
            "paths": args["data"],  # prepared sets that are mixed
            "split": "train",
            "weights": (),  # their shares of the mixture; (): all that there is of each
            "caps": (),  # the most samples of each set, 0: no cap; (): none
            "samples": args["samples"],  # 0: as many as weights and caps allow without repeating any
            "seed": args["seed"],
            "eval": {
                "paths": args["eval"],  # prepared sets of which the mixture may know nothing
                "splits": ("test", "validation"),  # as far as a set has them
            },
            "near_images": True,  # also compare pictures by their looks, not by their bytes alone
            "tokenizer": "",  # a file or folder: counts the tokens of the mixture
            "threads": 4,  # that decode pictures to compare them
            "workers": 2,  # processes that write
            "shard_rows": 10_000,
        }
    )
