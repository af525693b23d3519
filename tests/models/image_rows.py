"""Rows of a batch written as lists: numbers are text tokens, "image" stands for the next image."""

import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.types import Batch

IMAGE_TOKEN, PER_IMAGE, SIZE = 60, 4, 28


def make_batch(rows: list[list[int | str]], *, slots: int, length: int, seed: int = 0, size: int = SIZE) -> Batch:
    """A batch whose segments predict each other's next tokens, without the last; a `"next"` starts another segment."""
    shape = (len(rows), length)
    batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
    index = np.full(shape, -1, np.int32)
    images = np.zeros((len(rows), slots, size, size, 3), np.uint8)
    rng = np.random.default_rng(seed)
    for row, items in enumerate(rows):
        place, start, segment, slot = 0, 0, 1, 0
        for item in items:
            if item == "next":
                start, segment = place, segment + 1
                continue
            width = PER_IMAGE if item == "image" else 1
            here = slice(place, place + width)
            batch["tokens"][row, here] = IMAGE_TOKEN if item == "image" else item
            batch["segment_ids"][row, here] = segment
            batch["positions"][row, here] = np.arange(place, place + width) - start
            if item == "image":
                index[row, here] = slot * PER_IMAGE + np.arange(PER_IMAGE)
                images[row, slot] = rng.integers(0, 256, images.shape[2:], np.uint8)
                slot += 1
            place += width
    weights = np.asarray(batch["segment_ids"] > 0, np.float32)
    arrays = {**batch, "loss_weights": weights, "image_index": index, "images": images}
    return {name: jnp.asarray(array) for name, array in arrays.items()}
