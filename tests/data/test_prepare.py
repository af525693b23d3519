"""The prepared folder: contents, bad rows, resuming after SIGKILL, and one run at a time."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.layouts import llava_files, own_dataset
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.data.prepare import prepare_dataset

SPEC = own_dataset("mine", llava_files({"train": "train.json", "test": "test.json"}, images="pics"), licence="CC0-1.0")


def talk(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture
def raw(tmp_path, make_jpeg):
    """Train: 40 rows over 10 images (image 7 truncated on demand, 8 twice under two names); test: 3 rows."""
    folder = tmp_path / "raw"
    (folder / "pics").mkdir(parents=True)
    for number in range(10):
        (folder / f"pics/{number}.jpg").write_bytes(make_jpeg(number))
    (folder / "pics/again.jpg").write_bytes(make_jpeg(8))
    rows = [
        {"id": f"r{n}", "image": [f"{n % 10}.jpg", "again.jpg"][: 1 + n % 2], "conversations": talk(f"q{n}", f"a{n}")}
        for n in range(40)
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    test = [{"id": f"t{n}", "image": f"{n}.jpg", "conversations": talk("q", "a")} for n in range(2)]
    (folder / "test.json").write_text(json.dumps([*test, {"id": "text", "conversations": talk("q", "a")}]))
    return folder


def records(folder, split, kind):
    files = [file.path for file in read_manifest(folder).splits[split].files if Path(file.path).name.startswith(kind)]
    return [record for path in files for record in ArrayRecordReader(str(folder / path)).read_all()]


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout_counts_and_hashes(raw, tmp_path, make_jpeg):
    seen = []
    out = tmp_path / "out"
    options = {"shard_rows": 16, "command": "biomedgpt prepare x", "progress": lambda *event: seen.append(event)}
    manifest = prepare_dataset(SPEC, out, source_dir=raw, **options)
    train = manifest.splits["train"]
    assert (train.samples, train.images, train.skipped) == (40, 10, 0)
    assert [(file.path, file.records) for file in train.files] == [
        ("train/samples-00000-of-00003.array_record", 16),
        ("train/samples-00001-of-00003.array_record", 16),
        ("train/samples-00002-of-00003.array_record", 8),
        ("train/images-00000-of-00001.array_record", 10),
    ]
    for file in train.files:
        assert hashlib.sha256((out / file.path).read_bytes()).hexdigest() == file.sha256
    samples = [json.loads(record) for record in records(out, "train", "samples")]
    images = records(out, "train", "images")
    assert len(set(images)) == 10
    for n, sample in enumerate(samples):
        expected = [make_jpeg(n % 10), make_jpeg(8)][: 1 + n % 2]
        assert [images[i] for i in sample["images"]] == expected
        assert sample["turns"] == [{"question": f"q{n}", "answer": f"a{n}"}]
        assert sample["meta"]["image_name"] == f"{n % 10}.jpg"
        assert sample["meta"]["image_sha256"] == hashlib.sha256(expected[0]).hexdigest()
    assert json.loads(records(out, "test", "samples")[2]) == {
        "id": "text", "images": [], "turns": [{"question": "q", "answer": "a"}], "meta": {},
        "file": "test.json", "row": 3
    }  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test", "train"]
    assert not (tmp_path / "out.partial").exists()
    assert read_manifest(out) == manifest
    assert (manifest.licence, manifest.command) == ("CC0-1.0", "biomedgpt prepare x")
    assert ("train", 40, None) in seen
    assert seen.index(("train", 16, None)) < seen.index(("train", 32, None))


def test_workers_give_the_same_bytes(raw, tmp_path):
    prepare_dataset(SPEC, tmp_path / "one", source_dir=raw, shard_rows=16)
    prepare_dataset(SPEC, tmp_path / "two", source_dir=raw, shard_rows=16, workers=2)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_a_finished_folder_is_kept_and_never_mixed(raw, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is fine
    first = prepare_dataset(SPEC, out, source_dir=raw)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert prepare_dataset(SPEC, out, source_dir=raw) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (raw / "test.json").write_text(json.dumps([{"conversations": talk("other", "data")}]))
    with pytest.raises(DataError, match="made from other data"):
        prepare_dataset(SPEC, out, source_dir=raw)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    with pytest.raises(DataError, match="not a prepared data set"):
        prepare_dataset(SPEC, tmp_path / "full", source_dir=raw)


def spoil(raw, make_jpeg):
    (raw / "pics/7.jpg").write_bytes(make_jpeg(7)[:300])
    (raw / "pics/6.jpg").unlink()


def test_bad_images_are_reported_by_row(raw, tmp_path, make_jpeg):
    spoil(raw, make_jpeg)
    with pytest.raises(DataError, match=r"'train' of mine: 8 of 40 rows cannot be used, allowed share 0\.1") as error:
        prepare_dataset(SPEC, tmp_path / "out", source_dir=raw, max_bad_share=0.1)
    assert "train.json row 7: 6.jpg: image file not found" in str(error.value)
    assert not (tmp_path / "out").exists()
    manifest = prepare_dataset(SPEC, tmp_path / "out", source_dir=raw, max_bad_share=0.2)
    train = manifest.splits["train"]
    assert (train.samples, train.images, train.skipped) == (32, 8, 8)
    assert sorted({row.row for row in manifest.skipped}) == [7, 8, 17, 18, 27, 28, 37, 38]
    truncated = next(row for row in manifest.skipped if row.row == 8)
    assert (truncated.split, truncated.file) == ("train", "train.json")
    assert truncated.reason.startswith("7.jpg: not a readable image (300 bytes)")
    samples = [json.loads(record) for record in records(tmp_path / "out", "train", "samples")]
    images = records(tmp_path / "out", "train", "images")
    for sample in samples:
        assert images[sample["images"][0]] == make_jpeg(int(sample["id"][1:]) % 10)


def test_image_first_seen_in_a_skipped_row_is_stored_later(raw, tmp_path, make_jpeg):
    rows = [
        {"id": "bad", "image": ["1.jpg", "none.jpg"], "conversations": talk("q", "a")},
        # more rows than are held in memory at once
        *[{"id": f"x{n}", "image": "0.jpg", "conversations": talk("q", "a")} for n in range(300)],
        {"id": "good", "image": "1.jpg", "conversations": talk("q", "a")},
    ]
    (raw / "train.json").write_text(json.dumps(rows))
    prepare_dataset(SPEC, tmp_path / "out", source_dir=raw, max_bad_share=0.5)
    last = json.loads(records(tmp_path / "out", "train", "samples")[-1])
    assert records(tmp_path / "out", "train", "images")[last["images"][0]] == make_jpeg(1)


def test_nothing_usable_is_an_error(raw, tmp_path):
    (raw / "test.json").write_text(json.dumps([{"conversations": []}]))
    with pytest.raises(DataError, match="'test' of mine: 1 of 1 rows"):
        prepare_dataset(SPEC, tmp_path / "out", source_dir=raw, max_bad_share=1.0)
    (raw / "test.json").write_text("[]")
    with pytest.raises(DataError, match="'test' of mine holds no row"):
        prepare_dataset(SPEC, tmp_path / "out2", source_dir=raw)


def test_wrong_source_folder(raw, tmp_path):
    with pytest.raises(DataError, match="does not exist; expected the raw files of mine"):
        prepare_dataset(SPEC, tmp_path / "out", source_dir=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"train\.json.*no such file; .* holds: 0\.jpg, 1\.jpg"):
        prepare_dataset(SPEC, tmp_path / "out", source_dir=raw / "pics")
    assert not (tmp_path / "out.partial").exists()


RUN = """
import sys, time
sys.path.insert(0, {here!r})
from test_prepare import SPEC
from biomedgpt_jax.data.prepare import prepare_dataset
if __name__ == "__main__":
    slow = lambda split, done, total: (print(split, done, flush=True), time.sleep({pause}))
    prepare_dataset(SPEC, sys.argv[1], source_dir=sys.argv[2], shard_rows=4, workers={workers}, progress=slow)
"""


def start(tmp_path, raw, out, pause, workers=1):
    script = tmp_path / "run.py"
    script.write_text(RUN.format(here=str(Path(__file__).parent), pause=pause, workers=workers))
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(script), str(out), str(raw)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("lines", [1, 7, 12])
def test_killed_run_continues_and_ends_bit_equal(raw, tmp_path, lines):
    prepare_dataset(SPEC, tmp_path / "whole", source_dir=raw, shard_rows=4)
    out = tmp_path / "out"
    process = start(tmp_path, raw, out, pause=0.05)
    for _ in range(lines):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    with pytest.raises(DataError):
        read_manifest(tmp_path / "out.partial")
    seen = []
    prepare_dataset(SPEC, out, source_dir=raw, shard_rows=4, progress=lambda *event: seen.append(event))
    finished = 4 * max(0, lines - 2)  # a line is printed when a shard is full, before it is closed
    assert min(finished, 40) <= seen[0][1] <= 40
    assert everything(out) == everything(tmp_path / "whole")


def test_killed_run_leaves_no_workers(raw, tmp_path):
    process = start(tmp_path, raw, tmp_path / "out", pause=0.5, workers=2)
    for _ in range(2):
        process.stdout.readline()
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < limit, "a worker outlived its parent"
        time.sleep(0.1)


def test_two_runs_in_one_folder(raw, tmp_path):
    process = start(tmp_path, raw, tmp_path / "out", pause=0.3)
    process.stdout.readline()
    try:
        with pytest.raises(DataError, match="another run is working"):
            prepare_dataset(SPEC, tmp_path / "out", source_dir=raw, shard_rows=4)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_unfinished_work_of_other_data_is_not_reused(raw, tmp_path, make_jpeg):
    spoil(raw, make_jpeg)
    with pytest.raises(DataError, match="cannot be used"):
        prepare_dataset(SPEC, tmp_path / "out", source_dir=raw)
    rows = [{"id": "new", "image": "1.jpg", "conversations": talk("new", "row")}]
    (raw / "train.json").write_text(json.dumps(rows))
    manifest = prepare_dataset(SPEC, tmp_path / "out", source_dir=raw)
    assert manifest.splits["train"].samples == 1
