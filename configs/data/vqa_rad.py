"""VQA-RAD: biomedgpt prepare --config=configs/data/vqa_rad.py --out=data/vqa_rad

Raw files are read from $BIOMEDGPT_DATA/vqa_rad if that is set, else downloaded. `split=official` gives the
authors' split, which shares 202 of its 203 test images with training; `split=body_parts` the body-part questions alone.
"""

import os

from dataset import dataset
from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import choose, parse_args

NAMES = {"disjoint": "vqa_rad", "body_parts": "vqa_rad_body_parts", "official": "vqa_rad_official"}


def get_config(arg: str | None = None) -> ConfigDict:
    split = choose("split", parse_args(arg, split="disjoint")["split"], tuple(NAMES))
    root = os.environ.get("BIOMEDGPT_DATA", "")
    return dataset(NAMES[split], source=os.path.join(root, "vqa_rad") if root else "")
