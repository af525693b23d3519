"""Rows per second of BiomedGPT's training batches, one core: BIOMEDGPT_DATA=DATA python benchmarks/pair_pipeline.py

The iterator that training uses, over VQA-RAD's first training pictures, each decoded anew: seen whole (exact or fast
resizing) or through an augmentation. Everything but the device is in it: reading, decoding, drawing, tokens, batches.
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from timing import machine

from biomedgpt_jax.data.augment import AUGMENTATIONS, AugmentedPairs
from biomedgpt_jax.data.batch_iterator import Reading
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens, train_biomedgpt_tokens
from biomedgpt_jax.data.encoded_pairs import EncodedPairs, encode_split_pairs
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.mixture import Part
from biomedgpt_jax.data.pair_batches import PairShape
from biomedgpt_jax.data.pair_encoding import TokenLimits
from biomedgpt_jax.data.pair_pipeline import PairData, PairSettings, build_pair_data
from biomedgpt_jax.data.pair_tasks import PairRules
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.sets.vqa_rad import VQA_RAD_OFFICIAL
from biomedgpt_jax.data.source import PreparedSplit

BATCH, STEPS, ROUNDS = 16, 10, 3
READING = Reading(workers=0, threads=1, ahead=2, image_cache_bytes=0)
VIEWS = ("captioned", "classified-unflipped")


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    table = Table("pixels", "view", "rows/s", title=f"One core; {machine()}")
    with tempfile.TemporaryDirectory() as scratch:
        pairs, tokens = _encoded(Path(scratch))
        for size in (256, 384, 480):
            settings = PairSettings((PairShape(64, 96),), (size, size))
            plain = build_pair_data([Part(pairs)], tokens, settings, BATCH, 1, seed=0)
            for geometry in (Geometry.RESIZE, Geometry.RESIZE_FAST):
                table.add_row(str(size), geometry.value, f"{_speed(plain, size, geometry):.0f}")
            for view in VIEWS:
                seen = AugmentedPairs(pairs, AUGMENTATIONS[view], size)
                data = build_pair_data([Part(seen)], tokens, settings, BATCH, 1, seed=0)
                table.add_row(str(size), view, f"{_speed(data, size, Geometry.RESIZE):.0f}")
    Console().print(table)


def _encoded(scratch: Path) -> tuple[EncodedPairs, BiomedGptTokens]:
    raw = Path(os.environ["BIOMEDGPT_DATA"]) / "vqa_rad"
    prepare_dataset(VQA_RAD_OFFICIAL, scratch / "data", source_dir=raw)
    split = PreparedSplit(scratch / "data", "train")
    texts = [f" {turn.question} {turn.answer}".lower() for n in range(len(split)) for turn in split[n].turns]
    tokens = train_biomedgpt_tokens(texts, scratch / "tokens", 2000, 64, 100)
    return encode_split_pairs(split, PairRules(), tokens, TokenLimits(64, 96), scratch / "encoded"), tokens


def _speed(data: PairData, size: int, geometry: Geometry) -> float:
    load = partial(load_square, size=size, geometry=geometry, background=(0, 0, 0))
    found = []
    for _ in range(ROUNDS):
        iterator = data.batches(load, READING)
        next(iterator)
        begun = time.perf_counter()
        for _ in range(STEPS):
            next(iterator)
        found.append(BATCH * STEPS / (time.perf_counter() - begun))
        iterator.close()
    return median(found)


if __name__ == "__main__":
    main()
