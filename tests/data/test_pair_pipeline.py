"""Batches of pairs end to end over real prepared files: what a row holds, and that nothing changes it."""

import io
import json
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.answer_lists import count_unlisted, listed_answers, training_answers
from biomedgpt_jax.data.augment import CAPTIONED, AugmentedPairs
from biomedgpt_jax.data.batch_iterator import Reading
from biomedgpt_jax.data.batches import HostBatch, ImageReader
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens, train_biomedgpt_tokens
from biomedgpt_jax.data.encoded_pairs import EncodedPairs, encode_split_pairs
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.mixture import Part
from biomedgpt_jax.data.pair_batches import PairShape, pair_prompt_batches
from biomedgpt_jax.data.pair_encoding import TokenLimits, encode_pair_prompt
from biomedgpt_jax.data.pair_pipeline import PairData, PairSettings, build_pair_data
from biomedgpt_jax.data.pair_tasks import PairRules
from biomedgpt_jax.data.source import PreparedSplit, Turn
from biomedgpt_jax.data.tasks import Overflow
from biomedgpt_jax.data.trie import build_trie

READING = Reading(workers=0, threads=2, ahead=2, image_cache_bytes=1 << 20)
LIMITS = TokenLimits(96, 64)
SETTINGS = PairSettings((PairShape(32, 32), PairShape(96, 64)), (6, 8))
MakeSplit = Callable[..., PreparedSplit]
ANSWERS = ("yes", "no", "a chest", "the left lung")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def samples(count: int) -> list:
    """Short and long questions, two of three with an image."""
    return [
        ([n % 200] if n % 3 else [], [("is it " + "large " * (25 * (n % 2)) + f"n{n}?", ANSWERS[n % 4])])
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> BiomedGptTokens:
    return train_biomedgpt_tokens(
        ["is it large? yes no a chest the left lung"] * 3, tmp_path_factory.mktemp("tokens"), 300, 16, 10
    )


@pytest.fixture
def pairs(make_split: MakeSplit, tokens: BiomedGptTokens, tmp_path: Path) -> EncodedPairs:
    return encode_split_pairs(make_split(samples(40)), PairRules(), tokens, LIMITS, tmp_path / "cache")


def read_all(data: PairData, rows: range | None = None, reading: Reading = READING) -> list[HostBatch]:
    iterator = data.batches(pixels, reading, rows)
    batches = list(iterator)
    iterator.close()
    return batches


def same(left: list[HostBatch], right: list[HostBatch]) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) for a, b in zip(left, right, strict=True)
    )


def test_what_a_row_holds(pairs: EncodedPairs, tokens: BiomedGptTokens) -> None:
    data = build_pair_data([Part(pairs)], tokens, SETTINGS, 4, 1, seed=3)
    seen: Counter = Counter()
    for batch in read_all(data):
        assert len({batch[key].shape[1] for key in ("tokens", "targets", "loss_weights", "segment_ids")}) == 1
        for row, number in enumerate(batch["samples"][:, 0].tolist()):
            if number < 0:
                assert not batch["loss_weights"][row].any() and batch["source_mask"][row].sum() == 2
                continue
            seen[number] += 1
            source, words = batch["source_tokens"][row][batch["source_mask"][row]], batch["segment_ids"][row] > 0
            question = tokens.decode(source)
            assert f" n{number}?" in question and source[0] == 0 and source[-1] == 2
            read, learned = batch["tokens"][row][words], batch["loss_weights"][row] == 1
            assert read[0] == 0 and batch["positions"][row][words].tolist() == list(range(len(read)))
            assert tokens.decode(batch["targets"][row][learned], skip_special=False) == f" {ANSWERS[number % 4]}</s>"
            assert (read[1:] == batch["targets"][row][: len(read) - 1]).all()
            assert tokens.decode(read[: 1 + np.flatnonzero(learned)[0]]) == question
            assert ("images" in batch) == bool(number % 3)
            if "images" in batch:
                assert batch["image_mask"][row] and batch["images"][row, 0, 0, 0].tolist() == [number, 0, 255 - number]
    assert seen == Counter(range(40))
    assert data.fill.samples == 40 and data.fill.rows == 4 * data.num_steps
    assert {shape for shape, _ in data.shapes} == set(SETTINGS.buckets) and len(data.shapes) == 4


def test_rows_of_processes_and_workers_make_the_same_batches(pairs: EncodedPairs, tokens: BiomedGptTokens) -> None:
    data = build_pair_data([Part(pairs)], tokens, replace(SETTINGS, noise=0.5), 4, 2, seed=0)
    whole = read_all(data)
    halves = [read_all(data, rows) for rows in (range(2), range(2, 4))]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*halves, strict=True)]
    assert same(whole, joined)
    assert same(whole, read_all(data, reading=replace(READING, threads=1, image_cache_bytes=0)))


def test_batches_travel_to_other_processes(pairs: EncodedPairs, tokens: BiomedGptTokens) -> None:
    trie = build_trie(training_answers([pairs]))
    augmented = AugmentedPairs(pairs, CAPTIONED, 8)
    settings = replace(SETTINGS, image_size=(8, 8), trie=trie)
    data = build_pair_data([Part(augmented)], tokens, settings, 4, 1, seed=0)
    there = pickle.loads(pickle.dumps(data))
    assert same(read_all(data), read_all(there)) and there.sample_id(3) == data.sample_id(3)


def test_resuming_gives_the_same_batches(pairs: EncodedPairs, tokens: BiomedGptTokens) -> None:
    settings = replace(SETTINGS, noise=0.5)
    data = build_pair_data([Part(pairs)], tokens, settings, 4, 3, seed=1)
    whole = read_all(data)
    first = data.batches(pixels, READING)
    for _ in range(5):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    first.close()
    again = build_pair_data([Part(pairs)], tokens, settings, 4, 3, seed=1).batches(pixels, READING)
    again.set_state(state)
    assert same(list(again), whole[5:])
    for other in (replace(settings, noise=0.4), replace(settings, buckets=(PairShape(96, 64),))):
        with pytest.raises(DataError, match="is not of this run"):
            build_pair_data([Part(pairs)], tokens, other, 4, 3, seed=1).batches(pixels, READING).set_state(state)


def test_noise_is_in_what_the_decoder_reads_alone(pairs: EncodedPairs, tokens: BiomedGptTokens) -> None:
    plain = read_all(build_pair_data([Part(pairs)], tokens, SETTINGS, 4, 1, seed=1))
    noisy = read_all(build_pair_data([Part(pairs)], tokens, replace(SETTINGS, noise=0.5), 4, 1, seed=1))
    changed = 0
    for a, b in zip(plain, noisy, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a if key != "tokens")
        rows, columns = np.nonzero(a["tokens"] != b["tokens"])
        changed += len(rows)
        # Position p is read after target p - 1, which is an answer's word where something is learned there.
        assert (a["loss_weights"][rows, columns - 1] == 1).all()
        assert np.isin(b["tokens"][rows, columns], tokens.words).all()
    assert changed > 15


def test_parts_in_their_proportions(make_split: MakeSplit, tokens: BiomedGptTokens, tmp_path: Path) -> None:
    encoded = [
        encode_split_pairs(make_split(samples(n), name=f"p{n}"), PairRules(), tokens, LIMITS, tmp_path / "cache")
        for n in (24, 12)
    ]
    parts = [Part(encoded[0], 0.5), Part(encoded[1], 3.0)]
    data = build_pair_data(parts, tokens, replace(SETTINGS, even=True), 8, 4, seed=0)
    batches = read_all(data)
    assert len(data.shapes) == 1 and batches[0]["source_tokens"].shape == (8, 96) and "images" in batches[0]
    of_first = [int((batch["samples"] < 24).sum()) for batch in batches]
    assert of_first == [2] * 24
    shown = Counter(np.concatenate([batch["samples"].ravel() for batch in batches]).tolist())
    assert {shown[number] for number in range(24)} == {2} and {shown[number] for number in range(24, 36)} == {12}


def test_answers_of_a_list(pairs: EncodedPairs, tokens: BiomedGptTokens, tmp_path: Path) -> None:
    answers = training_answers([pairs])
    assert sorted(tokens.decode(answer) for answer in answers) == sorted(f" {answer}" for answer in ANSWERS)
    trie = build_trie(answers)
    data = build_pair_data([Part(pairs)], tokens, replace(SETTINGS, trie=trie), 4, 1, seed=0)
    for batch in read_all(data):
        learned = batch["loss_weights"] == 1
        column = np.searchsorted(trie.words, batch["targets"][learned])
        assert (trie.words[column] == batch["targets"][learned]).all()
        assert (trie.next[batch["answer_nodes"][learned], column] >= 0).all()
        first = learned & (np.cumsum(learned, axis=1) == 1)
        assert (batch["answer_nodes"][first] == 0).all()
    (tmp_path / "answers.txt").write_text("Yes\nno\na chest\n")
    listed = listed_answers(tmp_path / "answers.txt", tokens, lower=True)
    assert count_unlisted(pairs.split.samples(range(40)), listed, tokens, lower=True) == 10
    loud = replace(pairs.split[0], turns=(Turn("q", " YES "),))
    assert [count_unlisted([loud], listed, tokens, lower) for lower in (True, False)] == [0, 1]
    some = build_trie(listed)
    with pytest.raises(
        DataError, match=r"10 of 40 pairs are not in the list of answers: .*set:train set-3 \(raw row 3\), turn 1"
    ):
        build_pair_data([Part(pairs)], tokens, replace(SETTINGS, trie=some), 4, 1, seed=0)
    kept = build_pair_data([Part(pairs)], tokens, replace(SETTINGS, trie=some), 4, 1, seed=0, overflow=Overflow.SKIP)
    assert kept.skipped == tuple(range(3, 40, 4)) and kept.fill.samples == 30
    (tmp_path / "answers.txt").write_text("yes\nYes\n")
    with pytest.raises(DataError, match=r"answers.txt, line 2: the same as line 1"):
        listed_answers(tmp_path / "answers.txt", tokens, lower=True)


def test_samples_over_the_limits(make_split: MakeSplit, tokens: BiomedGptTokens, tmp_path: Path) -> None:
    split = make_split([*samples(3), ([], [("x " * 70, "no")])])

    def encode(overflow: Overflow) -> EncodedPairs:
        return encode_split_pairs(split, PairRules(), tokens, TokenLimits(60, 80), tmp_path / "cache", overflow)

    with pytest.raises(
        DataError, match=r"1 of 4 samples can't be used: sample set-3 \(raw row 3\): .* source and .* decoder tokens"
    ):
        encode(Overflow.ERROR)
    skipped = encode(Overflow.SKIP)
    assert len(skipped) == 3 and [rejected.number for rejected in skipped.rejected] == [3]
    assert encode(Overflow.SKIP).key == skipped.key
    with pytest.raises(DataError, match=r"set:train set-1 \(raw row 1\), turn 1: .* too large"):
        build_pair_data([Part(skipped)], tokens, replace(SETTINGS, buckets=(PairShape(20, 80),)), 4, 1, seed=0)


def test_prompts_for_answers(make_split: MakeSplit, tokens: BiomedGptTokens) -> None:
    split = make_split(samples(11))
    prompts = [encode_pair_prompt(split[n], PairRules(), tokens, LIMITS) for n in range(11)]
    reader = ImageReader(pixels, (6, 8), 0)
    seen = []
    for batch in pair_prompt_batches(prompts, split, reader, SETTINGS.buckets, 4, pictured=range(2)):
        assert not batch["loss_weights"].any()
        for row, number in enumerate(batch["samples"][:, 0].tolist()):
            given = batch["tokens"][row][batch["segment_ids"][row] > 0]
            assert tokens.decode(given) == tokens.decode(batch["source_tokens"][row][batch["source_mask"][row]])
            if number < 0:
                continue
            seen.append(number)
            assert f" n{number}?" in tokens.decode(given)
            if "images" in batch:
                assert batch["image_mask"][row]
                assert batch["images"][row, 0, 0, 0, 0] == (number if row < 2 else 0)
    assert sorted(seen) == list(range(11))
    with pytest.raises(DataError, match=r"its prompt has .* the buckets are"):
        pair_prompt_batches(prompts, split, reader, [PairShape(20, 20)], 4)
