"""Prompts for evaluation in static buckets, and the image reader."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.batches import ImageReader, RowShape, prompt_batches
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import encode_prompt, expand
from biomedgpt_jax.data.tokenizers import Tokenizer


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def split(make_split: Callable[..., PreparedSplit]) -> PreparedSplit:
    return make_split([([n] if n % 3 else [], [("Which organ? " * (1 + 5 * (n % 2)), "brain")]) for n in range(11)])


def test_every_prompt_once_in_the_smallest_bucket(split: PreparedSplit, small_sp: Tokenizer) -> None:
    shape = RowShape(1, 2, 5, (6, 8), small_sp.image_token_id)
    prompts = [encode_prompt(split[n], TEMPLATES["llama3"], small_sp) for n in range(len(split))]
    reader = ImageReader(pixels, (6, 8), 1 << 20)
    batches = list(prompt_batches(prompts, split, reader, shape, (128, 64, 256), 4))
    seen: list[int] = []
    for batch in batches:
        width = batch["tokens"].shape[1]
        for row, number in enumerate(batch["samples"][:, 0].tolist()):
            tokens, _, index = expand(prompts[max(number, seen[-1] if number < 0 else 0)], 5, shape.image_token_id)
            if number >= 0:
                seen.append(number)
            # A row that fills up the batch repeats the last prompt, so that it can be decoded like any other.
            assert batch["tokens"][row, : len(tokens)].tolist() == tokens.tolist()
            assert batch["segment_ids"][row].tolist() == [1] * len(tokens) + [0] * (width - len(tokens))
            assert batch["image_index"][row, : len(tokens)].tolist() == index.tolist()
            assert width == min(size for size in (64, 128, 256) if size >= len(tokens))
            if (index >= 0).any():
                assert (batch["images"][row, 0, :, :, 0] == number).all() or number < 0
        assert not batch["loss_weights"].any() and not batch["targets"].any()
        assert batch["images"].shape == (4, 2, 6, 8, 3)
    assert sorted(seen) == list(range(11))
    assert len({batch["tokens"].shape[1] for batch in batches}) == 2


def test_prompts_that_do_not_fit_are_named(split: PreparedSplit, small_sp: Tokenizer) -> None:
    prompts = [encode_prompt(split[n], TEMPLATES["llama3"], small_sp) for n in range(2)]
    reader = ImageReader(pixels, (6, 8), 0)
    with pytest.raises(DataError, match=r"sample set-0: its prompt has \d+ tokens, the largest bucket 16"):
        prompt_batches(prompts, split, reader, RowShape(1, 1, 5, (6, 8), 0), (8, 16), 2)
    with pytest.raises(DataError, match="sample set-1: it has 1 images, a row has 0 slots"):
        prompt_batches(prompts, split, reader, RowShape(1, 0, 5, (6, 8), 0), (256,), 2)


def test_images_are_decoded_once_within_the_limit(split: PreparedSplit) -> None:
    decoded: list[int] = []

    def counting(data: bytes) -> np.ndarray:
        decoded.append(len(data))
        return pixels(data)

    two_images = ImageReader(counting, (6, 8), 2 * 6 * 8 * 3)
    for number in (0, 1, 0, 1, 2, 1, 0):
        assert two_images.read(split, number)[0, 0, 0] == pixels(split.image(number))[0, 0, 0]
    assert len(decoded) == 4  # 0, 1, 2 (which drops 0, the oldest), 0 again
    decoded.clear()
    for _ in range(3):
        ImageReader(counting, (6, 8), 0).read(split, 0)
    assert len(decoded) == 3


def test_reader_and_split_travel_to_workers(split: PreparedSplit) -> None:
    reader = ImageReader(pixels, (6, 8), 1 << 20)
    expected = reader.read(split, 1)
    reader_there, split_there = pickle.loads(pickle.dumps((reader, split)))
    assert np.array_equal(reader_there.read(split_there, 1), expected)
    assert split_there[3] == split[3]


def test_image_of_a_wrong_size_is_named(split: PreparedSplit, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image record 2: expected uint8 \(9, 9, 3\).*found uint8 \(6, 8, 3\)"):
        ImageReader(pixels, (9, 9), 0).read(split, 2)
