"""The cache of token ids: equal to encoding afresh, keyed by all that decides it, honest about bad samples."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from biomedgpt_jax.data.encoded import encode_split
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import encode_sample, expanded_length
from biomedgpt_jax.data.tokenizers import Tokenizer, train_sentencepiece

MakeSplit = Callable[..., PreparedSplit]
ROWS = [([n, 100 + n][: n % 3], [("Which organ? " * (n + 1), "brain " * (n + 1))]) for n in range(9)]


def test_cache_holds_what_encoding_gives(make_split: MakeSplit, small_sp: Tokenizer, tmp_path: Path) -> None:
    split, calls = make_split(ROWS), []
    for _ in range(2):
        encoded = encode_split(
            split, TEMPLATES["llama3"], small_sp, tmp_path / "c", progress=lambda *x: calls.append(x)
        )
    assert calls == [(9, 9)]  # the second time nothing was encoded
    for n in range(9):
        fresh = encode_sample(split[n], TEMPLATES["llama3"], small_sp)
        assert encoded[n].ids.tolist() == fresh.ids.tolist()
        assert encoded[n].supervised.tolist() == fresh.supervised.tolist()
        assert encoded[n].images == split[n].images == fresh.images
        assert encoded.lengths(7)[n] == expanded_length(fresh, 7)
    assert encoded.image_counts().tolist() == [n % 3 for n in range(9)]
    assert encoded.sample_id(4) == "set-4 (raw row 4)"


def test_each_cause_has_its_own_entry(make_split: MakeSplit, small_sp: Tokenizer, tmp_path: Path) -> None:
    split, other = make_split(ROWS), make_split([*ROWS[:8], ([8], [("q", "liver")])], "other")
    tokenizer = train_sentencepiece(["the brain and the liver " * 9] * 9, tmp_path / "t.model", 300)
    cache = tmp_path / "cache"
    for number, (data, template, words) in enumerate(
        [
            (split, "llama3", small_sp),
            (split, "align", small_sp),
            (split, "llama3", tokenizer),
            (other, "llama3", small_sp),
        ],
        start=1,
    ):
        encode_split(data, TEMPLATES[template], words, cache)
        assert len(list(cache.iterdir())) == number


def spoil(split: PreparedSplit, changes: dict[int, dict]) -> PreparedSplit:
    """Rewrites sample records as a faulty writer would have left them."""
    path = next(split.directory.rglob("samples*"))
    rows = []
    for n in range(len(split)):
        sample = split[n]
        turns = [{"question": t.question, "answer": t.answer} for t in sample.turns]
        rows.append({"id": sample.id, "images": list(sample.images), "turns": turns} | changes.get(n, {}))
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(json.dumps(row).encode())
    writer.close()
    return PreparedSplit(split.directory, split.split)


def test_bad_samples_are_errors_or_counted(make_split: MakeSplit, small_sp: Tokenizer, tmp_path: Path) -> None:
    changes = {2: {"turns": [{"question": "q", "answer": " "}]}, 5: {"images": [0]}}
    changes[5]["turns"] = [{"question": "<image> and <image>", "answer": "a"}]
    split = spoil(make_split(ROWS), changes)
    with pytest.raises(DataError, match=r"2 of 9 samples can't be used: sample set-2.*: the answer of turn 1 is empty"):
        encode_split(split, TEMPLATES["llama3"], small_sp, tmp_path / "c")
    encoded = encode_split(split, TEMPLATES["llama3"], small_sp, tmp_path / "c", skip_rejected=True)
    assert [r.number for r in encoded.rejected] == [2, 5]
    assert "2 <image> in its questions, but 1 images" in encoded.rejected[1].reason
    assert encoded.numbers.tolist() == [0, 1, 3, 4, 6, 7, 8]
    assert encoded.sample_id(2) == "set-3"  # where it was read is not kept here
    assert np.array_equal(encoded[2].ids, encode_sample(split[3], TEMPLATES["llama3"], small_sp).ids)


def test_broken_record_is_named(make_split: MakeSplit, small_sp: Tokenizer, tmp_path: Path) -> None:
    split = spoil(make_split(ROWS), {3: {"turns": 7}})
    with pytest.raises(DataError, match="set:train: sample record 3 is not a sample"):
        encode_split(split, TEMPLATES["llama3"], small_sp, tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())
