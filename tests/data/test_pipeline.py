"""Batches end to end over real prepared files: what is in them, and that their order survives anything."""

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from biomedgpt_jax.data.batch_iterator import Reading
from biomedgpt_jax.data.batches import HostBatch, RowShape
from biomedgpt_jax.data.encoded import EncodedSplit, encode_split
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.mixture import Part, repeats_for
from biomedgpt_jax.data.pipeline import TrainData, build_train_data
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import Overflow, expand
from biomedgpt_jax.data.tokenizers import Tokenizer

READING = Reading(workers=0, threads=2, ahead=2, image_cache_bytes=1 << 20)
MakeSplit = Callable[..., PreparedSplit]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def samples(count: int) -> list:
    """Text-only, one-image and two-image samples of several lengths, one and two turns."""
    made = []
    for n in range(count):
        levels = [[], [n % 200], [n % 200, 200 + n % 50]][n % 3]
        turns = [("Which organ is shown?" + " brain" * (n % 7), "the chest " * (1 + n % 5))]
        made.append((levels, turns + [("left or right?", f"right {n}")] * (n % 2)))
    return made


@pytest.fixture
def encoded(make_split: MakeSplit, small_sp: Tokenizer, tmp_path: Path) -> EncodedSplit:
    return encode_split(make_split(samples(40), shard_rows=16), TEMPLATES["llama3"], small_sp, tmp_path / "cache")


@pytest.fixture
def shape(small_sp: Tokenizer) -> RowShape:
    return RowShape(256, 4, 5, (6, 8), small_sp.image_token_id)


def all_batches(data: TrainData, reading: Reading = READING, rows: range | None = None) -> list[HostBatch]:
    iterator = data.batches(pixels, reading, rows)
    batches = list(iterator)
    iterator.close()
    return batches


def same(left: list[HostBatch], right: list[HostBatch]) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) for a, b in zip(left, right, strict=True)
    )


def segments(batches: list[HostBatch]) -> dict[int, list[dict[str, np.ndarray]]]:
    """Sample number -> what its positions hold in each of its occurrences, images by value."""
    found: dict[int, list] = {}
    for batch in batches:
        for row, numbers in enumerate(batch["samples"]):
            for segment, number in enumerate(numbers[numbers >= 0].tolist(), start=1):
                here = batch["segment_ids"][row] == segment
                keys = ("tokens", "targets", "loss_weights", "positions", "image_index")
                held = {key: batch[key][row][here] for key in keys}
                index = held.pop("image_index")
                slots = index[index >= 0] // 5
                held["features"] = index[index >= 0] % 5
                held["images"] = batch["images"][row][slots]
                found.setdefault(number, []).append(held)
    return found


def test_packed_rows_hold_what_single_rows_hold(encoded: EncodedSplit, shape: RowShape) -> None:
    packed = build_train_data([Part(encoded)], shape, 2, 1, seed=3)
    single = build_train_data([Part(encoded)], shape, 2, 1, seed=3, pack=False)
    assert packed.num_steps < single.num_steps == 20
    left, right = segments(all_batches(packed)), segments(all_batches(single))
    assert sorted(left) == sorted(right) == list(range(40))
    for number, occurrences in left.items():
        assert len(occurrences) == len(right[number]) == 1
        for key, held in occurrences[0].items():
            assert np.array_equal(held, right[number][0][key]), key


def test_rows_say_what_the_samples_say(encoded: EncodedSplit, shape: RowShape) -> None:
    data = build_train_data([Part(encoded)], shape, 2, 1, seed=3)
    batches = all_batches(data)
    for number, occurrences in segments(batches).items():
        tokens, supervised, _ = expand(encoded[number], 5, shape.image_token_id)
        held = occurrences[0]
        assert held["tokens"].tolist() == tokens.tolist()
        assert held["positions"].tolist() == list(range(len(tokens)))
        assert held["loss_weights"].tolist() == [*supervised[1:].astype(float), 0.0]
        assert held["targets"].tolist() == [*np.where(supervised, tokens, 0)[1:], 0]
        sample = encoded.split[int(encoded.numbers[number])]
        expected = [pixels(encoded.split.image(n)) for n in sample.images]
        assert np.array_equal(held["images"], np.repeat(expected, 5, axis=0) if expected else held["images"][:0])
        assert held["features"].tolist() == list(range(5)) * len(expected)
    total = sum(int(encoded[n].supervised.sum()) for n in range(40))
    assert sum(batch["loss_weights"].sum() for batch in batches) == total
    padding = np.concatenate([b["segment_ids"].ravel() == 0 for b in batches])
    for key, empty in {"loss_weights": 0, "targets": 0, "image_index": -1}.items():
        assert (np.concatenate([b[key].ravel() for b in batches])[padding] == empty).all()


def test_unused_slots_are_black_and_every_batch_has_one_shape(encoded: EncodedSplit, shape: RowShape) -> None:
    data = build_train_data([Part(encoded)], shape, 3, 1, seed=0)
    batches = all_batches(data)
    assert {tuple((k, v.shape, v.dtype.str) for k, v in b.items()) for b in batches} == {
        tuple((k, v.shape, v.dtype.str) for k, v in batches[0].items())
    }
    assert batches[0]["images"].shape == (3, 4, 6, 8, 3)
    for batch in batches:
        for row in range(3):
            used = batch["image_index"][row].max() // 5 + 1
            assert not batch["images"][row, used:].any()


def test_every_sample_once_per_epoch_and_other_rows_in_the_next(encoded: EncodedSplit, shape: RowShape) -> None:
    data = build_train_data([Part(encoded)], shape, 4, 3, seed=1)
    numbers = np.concatenate([b["samples"].ravel() for b in all_batches(data)])
    counts = Counter(numbers[numbers >= 0].tolist())
    assert counts == dict.fromkeys(range(40), 3)
    first, second = (data.plan.samples[k * 40 : (k + 1) * 40].tolist() for k in (0, 1))
    assert sorted(first) == sorted(second) and first != second


def test_restored_iterator_goes_on_bit_for_bit(encoded: EncodedSplit, shape: RowShape) -> None:
    mixture = [Part(encoded, 0.5), Part(encoded, 1.5)]
    whole = all_batches(build_train_data(mixture, shape, 2, 2, seed=5))
    for stop in (0, 1, len(whole) // 2, len(whole)):
        iterator = build_train_data(mixture, shape, 2, 2, seed=5).batches(pixels, READING)
        before = [next(iterator) for _ in range(stop)]
        state = json.loads(json.dumps(iterator.get_state()))
        iterator.close()
        # Other threads, no cache: how batches are read is not part of what they are.
        other = replace(READING, threads=1, ahead=7, image_cache_bytes=0)
        resumed = build_train_data(mixture, shape, 2, 2, seed=5).batches(pixels, other)
        resumed.set_state(state)
        assert same(before + list(resumed), whole)
        resumed.close()


def test_state_goes_back_as_well_as_forth(encoded: EncodedSplit, shape: RowShape) -> None:
    iterator = build_train_data([Part(encoded)], shape, 2, 1, seed=5).batches(pixels, READING)
    state = iterator.get_state()
    first = next(iterator)
    next(iterator)
    iterator.set_state(state)
    assert same([next(iterator)], [first])
    iterator.close()


def test_state_of_another_run_is_refused(encoded: EncodedSplit, shape: RowShape) -> None:
    state = build_train_data([Part(encoded)], shape, 2, 1, seed=5).batches(pixels, READING).get_state()
    others = [
        build_train_data([Part(encoded)], shape, 2, 1, seed=6),
        build_train_data([Part(encoded)], shape, 2, 2, seed=5),
        build_train_data([Part(encoded)], shape, 4, 1, seed=5),
        build_train_data([Part(encoded)], replace(shape, image_size=(3, 4)), 2, 1, seed=5),
    ]
    for other in others:
        with pytest.raises(DataError, match=r"saved place in the data.* is not of this run"):
            other.batches(pixels, READING).set_state(state)
    with pytest.raises(DataError, match="is not of this run"):
        others[0].batches(pixels, READING).set_state(
            {**others[0].batches(pixels, READING).get_state(), "next_step": 999}
        )


def test_state_lives_in_an_orbax_checkpoint(encoded: EncodedSplit, shape: RowShape, tmp_path: Path) -> None:
    data = build_train_data([Part(encoded)], shape, 2, 1, seed=5)
    whole = all_batches(data)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        iterator = data.batches(pixels, READING)
        for _ in range(3):
            next(iterator)
        manager.save(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        iterator.close()
        fresh = data.batches(pixels, READING)
        manager.restore(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
        assert same(list(fresh), whole[3:])
        fresh.close()


def test_processes_share_each_batch(encoded: EncodedSplit, shape: RowShape) -> None:
    data = build_train_data([Part(encoded)], shape, 4, 1, seed=2)
    shares = [all_batches(data, rows=rows) for rows in (range(1), range(1, 4))]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*shares, strict=True)]
    assert same(joined, all_batches(data))


WORKER_RUN = """
import hashlib, sys
from absl import app
import numpy as np
sys.path.insert(0, {tests!r})
from test_pipeline import READING, PreparedSplit, pixels, replace
from biomedgpt_jax.data.encoded import EncodedSplit
from biomedgpt_jax.data.batches import RowShape
from biomedgpt_jax.data.mixture import Part
from biomedgpt_jax.data.pipeline import build_train_data
from pathlib import Path

def main(_):
    encoded = EncodedSplit(PreparedSplit({prepared!r}, "train"), Path({folder!r}))
    data = build_train_data([Part(encoded)], RowShape(256, 4, 5, (6, 8), {image!r}), 2, 1, seed=5)
    iterator = data.batches(pixels, replace(READING, workers=2))
    iterator.set_state({{**iterator.get_state(), "next_step": 2}})
    digest = hashlib.sha256()
    for batch in iterator:
        for key in sorted(batch):
            digest.update(np.ascontiguousarray(batch[key]).tobytes())
    iterator.close()
    print(digest.hexdigest())

if __name__ == "__main__":
    app.run(main)
"""


def test_worker_processes_give_the_same_batches(encoded: EncodedSplit, shape: RowShape, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        WORKER_RUN.format(
            tests=str(Path(__file__).parent),
            prepared=str(encoded.split.directory),
            folder=str(encoded.folder),
            image=shape.image_token_id,
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    digest = hashlib.sha256()
    for batch in all_batches(build_train_data([Part(encoded)], shape, 2, 1, seed=5))[2:]:
        for key in sorted(batch):
            digest.update(np.ascontiguousarray(batch[key]).tobytes())
    assert done.stdout.split()[-1] == digest.hexdigest()


def test_mixture_has_exact_proportions(
    make_split: MakeSplit, small_sp: Tokenizer, shape: RowShape, tmp_path: Path
) -> None:
    parts = [
        encode_split(make_split(samples(n), name), TEMPLATES["llama3"], small_sp, tmp_path / "cache")
        for name, n in (("first", 30), ("second", 10))
    ]
    data = build_train_data([Part(parts[0], 0.1), Part(parts[1], 2.5)], shape, 2, 10, seed=0)
    counts = Counter(data.plan.samples.tolist())
    assert [counts[n] for n in range(30)] == [1] * 30  # 10 epochs of a tenth, each sample once
    assert [counts[n] for n in range(30, 40)] == [25] * 10
    assert data.sample_id(31).endswith("second:train second-1 (raw row 1)")
    assert repeats_for([3.0, 1.0], [30, 10]) == [1, 1]
    assert repeats_for([0.5, 0.5], [30, 10]) == [20 / 30, 2]


def test_too_large_samples(make_split: MakeSplit, small_sp: Tokenizer, shape: RowShape, tmp_path: Path) -> None:
    rows = [*samples(5), ([9], [("Which organ?", "the chest " * 300)])]
    encoded = encode_split(make_split(rows), TEMPLATES["llama3"], small_sp, tmp_path / "cache")
    with pytest.raises(
        DataError, match=r"set:train set-5 \(raw row 5\): \d+ tokens and 1 images, but a row holds 256 and 4; 1 of 6"
    ):
        build_train_data([Part(encoded)], shape, 2, 1, seed=0)
    skipping = build_train_data([Part(encoded)], shape, 2, 1, seed=0, overflow=Overflow.SKIP)
    assert skipping.skipped == (5,) and sorted(skipping.plan.samples.tolist()) == list(range(5))
    cutting = build_train_data([Part(encoded)], shape, 2, 1, seed=0, overflow=Overflow.TRUNCATE)
    held = segments(all_batches(cutting))[5][0]
    assert len(held["tokens"]) == 256 and held["loss_weights"].sum() > 100
    prompt = int(np.flatnonzero(encoded[5].supervised)[0]) + 4
    narrow = replace(shape, seq_len=prompt)
    with pytest.raises(DataError, match="no supervised token is left"):
        build_train_data([Part(encoded)], narrow, 2, 1, seed=0, overflow=Overflow.TRUNCATE)


def test_broken_image_is_named(encoded: EncodedSplit, shape: RowShape) -> None:
    def broken(data: bytes) -> np.ndarray:
        raise OSError("image file is truncated")

    iterator = build_train_data([Part(encoded)], shape, 2, 1, seed=0).batches(broken, READING)
    with pytest.raises(DataError, match=r"set:train, image record \d+: image file is truncated"):
        next(iterator)
    iterator.close()
    iterator = build_train_data([Part(encoded)], shape, 2, 1, seed=0).batches(lambda d: pixels(d)[:3], READING)
    with pytest.raises(DataError, match=r"expected uint8 \(6, 8, 3\).*found uint8 \(3, 8, 3\)"):
        next(iterator)
    iterator.close()
