"""A full disk, a read-only one, and files where folders should be: one message, and what was there stays whole."""

import json
import shutil
import signal
import subprocess
import sys
import time

from tests.command import ROOT, TINY, assert_refused, biomedgpt, config, contents, prepare_own, write_raw
from tests.disk import mounted

FULL = ("no space left on device. Free space there", "run the same command again")


def test_prepare_on_a_full_disk_goes_on_when_there_is_space(raw_data, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, 2000) as resize:
        assert prepare_own(raw_data, disk / "first").code == 0
        before = contents(disk / "first")
        # So much that the samples are written and the end of the work is not.
        used = sum(file.stat().st_blocks for file in disk.rglob("*")) // 2
        resize(used + 48)
        called = prepare_own(raw_data, disk / "second")
        assert_refused(called, 1, f"{disk / 'second.partial'}", *FULL)
        assert not (disk / "second").exists()
        assert contents(disk / "first") == before
        resize(2000)
        assert prepare_own(raw_data, disk / "second").code == 0
        assert (disk / "second" / "manifest.json").exists() and contents(disk / "first") == before


def test_nothing_is_written_on_a_read_only_disk(raw_data, prepared_data, tiny_run, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, 2000) as resize:
        (disk / "run").mkdir()
        resize(2000, "ro")
        train = ("train", config(f"smoke.py:stage=1,data={prepared_data}"), *TINY)
        for call, path in (
            ((*train, f"--workdir={disk / 'new'}"), disk / "new"),
            ((*train, f"--workdir={disk / 'run'}"), disk / "run"),
            (("report", f"--runs={tiny_run.folder}", f"--out={disk / 'page.html'}"), disk / "page.html"),
        ):
            assert_refused(biomedgpt(*call), 1, f"{path}", "read-only file system. Nothing can be written there")
        called = prepare_own(raw_data, disk / "data")
        assert_refused(called, 1, f"{disk / 'data'}", "read-only file system")


def test_report_on_a_full_disk_keeps_the_old_page(tiny_run, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, 8):
        (disk / "page.html").write_text("old")
        called = biomedgpt("report", f"--runs={tiny_run.folder}", f"--out={disk / 'page.html'}")
        assert_refused(called, 1, f"{disk / 'page.html'}", *FULL)
        assert (disk / "page.html").read_text() == "old"


def test_scores_and_exports_on_a_full_disk(prepared_data, tiny_run, tmp_path):
    disk, before = tmp_path / "disk", contents(tiny_run.folder)
    with mounted(disk, 8):
        (disk / "filler").write_bytes(bytes(8000))
        score = (
            "eval",
            config(f"eval.py:data={prepared_data}"),
            f"--model={tiny_run.folder}",
            f"--out={disk / 'eval'}",
        )
        assert_refused(biomedgpt(*score), 1, f"{disk / 'eval'}", "o space left on device")
        export = ("export", f"--model={tiny_run.folder}", f"--out={disk / 'out'}")
        assert_refused(biomedgpt(*export), 1, f"{disk / 'out'}", "o space left on device")
        assert not (disk / "eval" / "scores.json").exists() and not (disk / "out" / "config.json").exists()
    assert contents(tiny_run.folder) == before


def test_files_where_folders_should_be(raw_data, prepared_data, tiny_run, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    train = ("train", config(f"smoke.py:stage=1,data={prepared_data}"), *TINY)
    of_file = ("train", config(f"smoke.py:stage=1,data={file}"), *TINY, f"--workdir={tmp_path / 'run'}")
    for called, code, text in (
        (biomedgpt(*train, f"--workdir={file}"), 2, f"--workdir: {file} is a file"),
        (biomedgpt(*train, f"--workdir={file}/run"), 1, f"{file}/run: not a directory. A part of the path is a file"),
        (biomedgpt(*of_file), 1, f"{file} holds no manifest.json: not a prepared data set"),
        (prepare_own(file, tmp_path / "out"), 1, f"source folder {file} is a file"),
        (prepare_own(raw_data, file), 1, f"{file} is a file, expected a folder"),
        (prepare_own(raw_data, file / "out"), 1, f"{file}/out.partial: not a directory"),
        (biomedgpt("report", f"--runs={tiny_run.folder}", f"--out={tmp_path}"), 1, f"{tmp_path}"),
        (biomedgpt("generate", f"--model={file}", "--question=q"), 1, f"{file} holds no model"),
    ):
        assert_refused(called, code, text)
    assert file.read_text() == "mine"


def test_interrupted_prepare_says_so_and_goes_on(tmp_path):
    raw, out = write_raw(tmp_path / "raw"), tmp_path / "out"
    rows = json.loads((raw / "train.json").read_text())
    many = [{**rows[n % 8], "id": f"r{n}"} for n in range(6_000)]
    (raw / "train.json").write_text(json.dumps(many))
    arguments = (
        "prepare",
        config("data/own.py:name=tiny,train=train.json"),
        f"--config.source={raw}",
        "--config.own.images=images",
        "--config.shard_rows=200",
        "--config.workers=1",
        f"--out={out}",
    )
    command = [sys.executable, "-m", "biomedgpt_jax", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out.partial").glob("train/shard-0000[3-9]")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and said.endswith("biomedgpt prepare: interrupted\n"), said
    assert "Traceback" not in said and not out.exists()
    finished = {file.parent.name for file in (tmp_path / "out.partial" / "train").glob("shard-*/done.json")}
    assert finished
    work = contents(tmp_path / "out.partial" / "train" / min(finished))
    assert biomedgpt(*arguments).code == 0
    assert work["samples.array_record"] in contents(out).values()
    assert json.loads((out / "manifest.json").read_text())["splits"]["train"]["samples"] == len(many)
    shutil.rmtree(out)
