"""Any data set that is built in: biomedgpt prepare --config=configs/data/dataset.py:name=slake --out=data/slake"""

from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    return dataset(parse_args(arg, name="vqa_rad")["name"])


def dataset(name: str, source: str = "") -> ConfigDict:
    return ConfigDict(
        {
            "dataset": name,
            "source": source,  # folder with the raw files; empty: download
            "workers": 2,
            "max_bad_share": 0.0,  # share of rows of a split that may be unusable before the run fails
            "allow_other_sizes": False,  # go on when a split has another number of rows than was published
            "shard_rows": 10_000,
        }
    )
