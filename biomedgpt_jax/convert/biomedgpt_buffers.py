"""What a BiomedGPT checkpoint stores besides its parameters: copies of the embedding, tables that follow from sizes.

Copies are compared with the embedding, and tables with ours, before they are dropped; both are written again on export.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from biomedgpt_jax.convert.biomedgpt import EMBEDDING
from biomedgpt_jax.convert.mapping import Shape
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.layers.relative_bias import image_buckets, text_buckets
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig

COPIES = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
VERSION = 3.0  # what both sides of a fairseq checkpoint state
# The image position of places behind the last code, and how many of them are stored, whatever else the sizes are.
CODES_BEHIND, PLACES_BEHIND = 1024, 769
# The table of a target's image positions has a row more in fairseq's files than in the Hugging Face form.
_CODE_POSITIONS = "decoder.image_position_idx"
_COUNTER = "num_batches_tracked"
IGNORED = (
    *map(re.escape, (*COPIES, _CODE_POSITIONS)),
    r"(encoder|decoder)\.(version|token_rp_bucket|image_rp_bucket)",
    rf".*\.{_COUNTER}",
)


@dataclass(frozen=True, eq=False)
class Padded(Tensors):
    """The tensors of a checkpoint with the embedding as the model has it: rows of zeros behind the vocabulary."""

    tensors: Tensors
    config: BiomedGptConfig

    @property
    def files(self):  # type: ignore[override]  # those of what it wraps, no attribute of its own
        return self.tensors.files

    def __getitem__(self, key: str) -> np.ndarray:
        stored = self.tensors[key]
        if key != EMBEDDING:
            return stored
        padded = np.zeros(self.shape(key), stored.dtype)
        padded[: len(stored)] = stored
        return padded

    def shape(self, key: str) -> Shape:
        rows, *rest = self.tensors.shape(key)
        fits = key == EMBEDDING and rows == self.config.vocab_size
        return (self.config.padded_vocab_size if fits else rows, *rest)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def check_copies(tensors: Tensors, where: str) -> None:
    """Raises RunError where a copy of the embedding that is there has other bits."""
    if EMBEDDING not in tensors:
        return  # said with whatever else is missing
    embedding = tensors[EMBEDDING]
    for name in COPIES:
        if name in tensors:
            copy = tensors[name]
            if copy.dtype != embedding.dtype or not np.array_equal(_bytes(copy), _bytes(embedding)):
                raise RunError(
                    f"{where}: {name} differs from {EMBEDDING}; expected three copies of one table, which the model "
                    "shares. The checkpoint is of a model with separate embeddings, or it is damaged."
                )
            del copy  # so that its memory takes the next


def check_buffers(tensors: Tensors, config: BiomedGptConfig, where: str) -> None:
    """Compares the tables of a checkpoint with those that our model computes with.

    Raises:
        RunError: naming the table, and the first entry that differs.
    """
    for name, expected in tables(config).items():
        if name not in tensors:
            continue
        found = tensors[name]
        if name == _CODE_POSITIONS and len(found) == len(expected) - 1:
            expected = expected[:-1]
        if found.shape != expected.shape:
            raise RunError(f"{where}: {name} has shape {found.shape}, expected {expected.shape}.")
        if len(places := np.argwhere(found != expected)):
            place = tuple(places[0].tolist())
            raise RunError(
                f"{where}: {name}{list(place)} is {found[place]}, ours is {expected[place]} ({len(places)} differ). "
                "The model counts distances in another way, so it would not compute the same here."
            )


def tables(config: BiomedGptConfig) -> dict[str, np.ndarray]:
    """Fairseq's buffers that follow from the sizes, int64 by name."""
    reach, buckets = (
        config.bucket_reach,
        text_buckets(config.bucket_reach, buckets=config.text_buckets, reach=config.bucket_reach),
    )
    places = np.arange(reach)
    text = buckets[places[:, None] - places + reach - 1].astype(np.int64)
    image = image_buckets(np.arange(config.image_positions), grid=config.image_grid).astype(np.int64)
    sides = {
        f"{side}.{name}": table
        for side in ("encoder", "decoder")
        for name, table in (("token_rp_bucket", text), ("image_rp_bucket", image))
    }
    rows, columns = np.divmod(np.arange(config.code_grid**2), config.code_grid)
    codes = rows * config.image_grid + columns + 1
    behind = np.full(PLACES_BEHIND, CODES_BEHIND)
    return {**sides, _CODE_POSITIONS: np.concatenate([[0], codes, behind]).astype(np.int64)}


def with_stored(
    tensors: Iterator[tuple[str, np.ndarray]], config: BiomedGptConfig, *, hugging_face: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """All that a checkpoint stores, from its parameters with the padded embedding.

    BatchNorm's counters of batches, which nothing reads, are 0.
    """
    for key, array in tensors:
        if key == EMBEDDING:
            for name in (EMBEDDING, *COPIES):
                yield name, array[: config.vocab_size]
            continue
        yield key, array
        if key.endswith(".running_var"):
            yield key.replace("running_var", _COUNTER), np.zeros((), np.int64)
    for name, table in tables(config).items():
        yield name, table[:-1] if hugging_face and name == _CODE_POSITIONS else table
    if not hugging_face:
        for side in ("encoder", "decoder"):
            yield f"{side}.version", np.array([VERSION], np.float32)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
