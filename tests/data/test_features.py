"""The feature cache on disk: whole or not, what it refuses, and what a reader gives."""

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from biomedgpt_jax.data.batch_iterator import Reading
from biomedgpt_jax.data.batches import RowShape, prompt_batches
from biomedgpt_jax.data.encoded import encode_split
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.features import (
    FEATURES,
    FeatureCache,
    FeatureReader,
    FeatureShape,
    Picture,
    Written,
    write_features,
)
from biomedgpt_jax.data.mixture import Part
from biomedgpt_jax.data.pipeline import TrainData, build_train_data
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import encode_prompt
from biomedgpt_jax.data.tokenizers import Tokenizer

MakeSplit = Callable[..., PreparedSplit]
KEY = {"weights": "abc", "scales": [56], "dtype": "bfloat16"}
SHAPE = FeatureShape(tokens=5, channels=3, dtype="bfloat16")
READING = Reading(workers=0, threads=2, ahead=2, image_cache_bytes=0)


def features_of(picture: Picture) -> np.ndarray:
    """Made of the image's bytes alone, so that a wrong record shows."""
    seed = int.from_bytes(picture[0].image(picture[1])[-40:], "big")
    return np.random.default_rng(seed).normal(size=(5, 3)).astype(ml_dtypes.bfloat16)


def encode(pictures: Sequence[Picture]) -> Iterator[np.ndarray]:
    return map(features_of, pictures)


def write(folder: Path, splits: list[PreparedSplit], encode=encode, key=KEY, **options) -> Written:
    return write_features(folder, key, SHAPE, splits, encode, lambda *_: None, made_by={}, **options)


@pytest.fixture
def split(make_split: MakeSplit) -> PreparedSplit:
    # Image record n is the n-th grey level to appear; one sample has two images, one none.
    samples = [([7], "a"), ([3], "b"), ([7], "c"), ([], "d"), ([9, 3], "e"), ([1], "f")]
    return make_split([(levels, [(f"Question {text}?", "yes")]) for levels, text in samples])


def assert_holds(reader: FeatureReader, split: PreparedSplit) -> None:
    for number in range(split.num_images):
        found = reader.read(split, number)
        assert found.dtype == ml_dtypes.bfloat16 and found.shape == (5, 3)
        assert found.tobytes() == features_of((split, number)).tobytes()


def test_a_cache_gives_back_every_bit(split: PreparedSplit, tmp_path: Path) -> None:
    assert write(tmp_path / "cache", [split]) == Written(images=4, new=4)
    cache = FeatureCache(tmp_path / "cache")
    cache.check(KEY)
    reader = cache.reader([split])
    assert_holds(reader, split)
    assert_holds(pickle.loads(pickle.dumps(reader)), split)
    assert write(tmp_path / "cache", [split]) == Written(images=4, new=0)


def test_equal_images_of_two_sets_are_stored_once(make_split: MakeSplit, split: PreparedSplit, tmp_path: Path) -> None:
    other = make_split([([level], [("Which organ?", "liver")]) for level in (9, 200, 7)], name="other")
    unseen = make_split([([7], [("Is it red?", "no")]), ([9], [("Is it blue?", "no")])], name="unseen")
    assert write(tmp_path / "cache", [split, other]) == Written(images=5, new=5)
    reader = FeatureCache(tmp_path / "cache").reader([split, other, unseen])
    for each in (split, other, unseen):
        assert_holds(reader, each)


def test_an_interrupted_call_is_continued_and_never_taken_for_whole(split: PreparedSplit, tmp_path: Path) -> None:
    asked: list[int] = []

    def interrupted(pictures: Sequence[Picture]) -> Iterator[np.ndarray]:
        for number, picture in enumerate(pictures):
            if len(asked) == 3:
                raise KeyboardInterrupt
            asked.append(number)
            yield features_of(picture)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", [split], interrupted, shard_seconds=0.0)  # each image its own shard
    with pytest.raises(DataError, match=r"cache: it is unfinished \(no manifest.json\); run `biomedgpt prepare"):
        FeatureCache(tmp_path / "cache")
    assert write(tmp_path / "cache", [split]) == Written(images=4, new=1)
    assert_holds(FeatureCache(tmp_path / "cache").reader([split]), split)


def test_other_features_are_refused_with_what_differs(split: PreparedSplit, tmp_path: Path) -> None:
    write(tmp_path / "cache", [split])
    other = {**KEY, "scales": [56, 112], "weights": "def"}
    expected = (
        r"2 differences\)\. scales: expected \[56, 112\], found \[56\]; weights: expected 'def', found 'abc'\. Use"
    )
    with pytest.raises(DataError, match=expected):
        FeatureCache(tmp_path / "cache").check(other)
    with pytest.raises(DataError, match=expected):
        write(tmp_path / "cache", [split], key=other)
    FeatureCache(tmp_path / "cache").check(KEY)


def test_missing_images_are_counted_and_can_be_added(
    make_split: MakeSplit, split: PreparedSplit, tmp_path: Path
) -> None:
    more = make_split([([level], [("Which?", "this")]) for level in (7, 50, 60)], name="more")
    write(tmp_path / "cache", [split])
    with pytest.raises(
        DataError, match=r"cache lacks the features of 2 of 3 images of .*more:train, first image record 1"
    ):
        FeatureCache(tmp_path / "cache").reader([split, more])
    assert write(tmp_path / "cache", [more]) == Written(images=6, new=2)
    reader = FeatureCache(tmp_path / "cache").reader([split, more])
    assert_holds(reader, split)
    assert_holds(reader, more)


def test_damage_is_named_and_mended(split: PreparedSplit, tmp_path: Path) -> None:
    write(tmp_path / "cache", [split])
    file = tmp_path / "cache" / "shard-00000" / FEATURES
    whole = file.read_bytes()
    record = features_of((split, 2)).tobytes()
    place = whole.index(record)
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DataError, match=rf"train, image record 2: .*{FEATURES} is damaged .*Delete that shard and run"):
        FeatureCache(tmp_path / "cache").reader([split]).read(split, 2)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is damaged"):
        FeatureCache(tmp_path / "cache").reader([split]).read(split, 3)
    for path in file.parent.iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r"shard-00000 is damaged or missing .*run `biomedgpt prepare --features` again"
    ):
        FeatureCache(tmp_path / "cache")
    assert write(tmp_path / "cache", [split]) == Written(images=4, new=4)
    assert_holds(FeatureCache(tmp_path / "cache").reader([split]), split)


def test_a_folder_of_something_else_is_refused(split: PreparedSplit, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing: there is no feature cache"):
        FeatureCache(tmp_path / "nothing")
    with pytest.raises(DataError, match="is no manifest of a feature cache"):
        FeatureCache(split.directory)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps({"format": 1})[:-3])
    with pytest.raises(DataError, match="is not readable JSON"):
        FeatureCache(tmp_path / "cut")


def training(split: PreparedSplit, tokenizer: Tokenizer, folder: Path, features: FeatureShape | None) -> TrainData:
    encoded = encode_split(split, TEMPLATES["llama3"], tokenizer, folder / "encoded")
    shape = RowShape(128, 3, SHAPE.tokens, (6, 8), tokenizer.image_token_id, features)
    return build_train_data([Part(encoded)], shape, batch_size=2, num_epochs=2, seed=3)


def test_batches_hold_features_in_the_place_of_images(
    split: PreparedSplit, small_sp: Tokenizer, tmp_path: Path
) -> None:
    write(tmp_path / "cache", [split])
    reader = FeatureCache(tmp_path / "cache").reader([split])
    online, cached = (training(split, small_sp, tmp_path, features) for features in (None, SHAPE))
    plain = online.batches(lambda data: np.full((6, 8, 3), len(data), np.uint8), READING)
    iterator = cached.batches(reader, READING)
    # The plan is the same: a run may go on from the one with the other.
    assert iterator.get_state() == plain.get_state()
    batches = list(iterator)
    iterator.close()
    expected = list(plain)
    assert len(batches) == len(expected) > 1
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() - other.keys() == {"features"} and other.keys() - batch.keys() == {"images"}
        for name in batch.keys() & other.keys():
            np.testing.assert_array_equal(batch[name], other[name])
        assert batch["features"].shape == (2, 3, 5, 3) and batch["features"].dtype == ml_dtypes.bfloat16
        for row, numbers in enumerate(batch["samples"].tolist()):
            images = [image for n in numbers if n >= 0 for image in split[n].images]
            wanted = [features_of((split, image)) for image in images]
            wanted += [np.zeros_like(batch["features"][0, 0])] * (3 - len(images))
            assert batch["features"][row].tobytes() == np.stack(wanted).tobytes()


def test_prompts_take_features_too(split: PreparedSplit, small_sp: Tokenizer, tmp_path: Path) -> None:
    write(tmp_path / "cache", [split])
    reader = FeatureCache(tmp_path / "cache").reader([split])
    prompts = [encode_prompt(split[n], TEMPLATES["llama3"], small_sp) for n in range(len(split))]
    shape = RowShape(1, 2, SHAPE.tokens, (6, 8), small_sp.image_token_id, SHAPE)
    for batch in prompt_batches(prompts, split, reader, shape, (128,), 4):
        for row, number in enumerate(batch["samples"][:, 0].tolist()):
            for slot, image in enumerate(split[number].images if number >= 0 else ()):
                assert batch["features"][row, slot].tobytes() == features_of((split, image)).tobytes()
