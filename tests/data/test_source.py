"""Prepared folders read back: shards, order, errors."""

from collections.abc import Callable
from pathlib import Path

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.source import PreparedSplit, Turn

MakeSplit = Callable[..., PreparedSplit]


def test_shards_read_as_one(make_split: MakeSplit) -> None:
    rows = [([n % 4, 10 + n], [(f"q{n}", f"a{n}"), ("more?", "no")]) for n in range(23)]
    whole, shards = make_split(rows, "whole"), make_split(rows, "shards", shard_rows=5)
    assert len(whole) == len(shards) == 23
    assert whole.num_images == shards.num_images
    for n in (0, 4, 5, 17, 22):
        assert shards[n].turns == (Turn(f"q{n}", f"a{n}"), Turn("more?", "no"))
        assert [shards.image(i) for i in shards[n].images] == [whole.image(i) for i in whole[n].images]
    assert [s.id for s in shards.samples([22, 3, 9, 3])] == ["shards-22", "shards-3", "shards-9", "shards-3"]
    assert shards[7].meta["image_sha256"] == whole[7].meta["image_sha256"]


def test_missing_things_are_named(make_split: MakeSplit, tmp_path: Path) -> None:
    split = make_split([([1], [("q", "a")])])
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        PreparedSplit(split.directory, "test")
    with pytest.raises(DataError, match="manifest"):
        PreparedSplit(tmp_path, "train")
    with pytest.raises(DataError, match=r"records 1..1 asked for, 1 exist"):
        split.image(1)
    images = next(split.directory.rglob("images*"))
    images.write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged: the manifest says 1 records, 0 can be read"):
        PreparedSplit(split.directory, "train").image(0)
    images.unlink()
    with pytest.raises(DataError, match="is missing; prepare again"):
        PreparedSplit(split.directory, "train")


def test_a_part_is_spread_evenly_and_keeps_its_images(make_split: MakeSplit) -> None:
    split = make_split([([n], [(f"q{n}", f"a{n}")]) for n in range(10)])
    part = split.spread(4)
    assert len(part) == 4 and [sample.turns[0].question for sample in part.samples(range(4))] == [
        "q0",
        "q2",
        "q5",
        "q7",
    ]
    assert part.image(*part[2].images) == split.image(*split[5].images)
    assert [part.spread(2)[n].turns[0].question for n in range(2)] == ["q0", "q5"]
    assert len(split) == 10 and split.spread(10) is split
