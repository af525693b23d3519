"""`biomedgpt prepare` on a user's own files, by the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from biomedgpt_jax.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]


def prepare(config, *options):
    command = [sys.executable, "-m", "biomedgpt_jax", "prepare", f"--config={ROOT}/configs/data/{config}", *options]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)


def test_own_llava_files_with_a_bad_row(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A lung."}]
    (raw / "rows.jsonl").write_text(json.dumps({"conversations": talk}) + "\n{broken\n")
    arguments = ("own.py:train=rows.jsonl,name=mine", f"--config.source={raw}", f"--out={tmp_path / 'out'}")
    failed = prepare(*arguments)
    assert failed.returncode == 1
    assert "1 of 2 rows cannot be used" in failed.stderr
    assert "rows.jsonl row 2: not valid JSON" in failed.stderr
    assert "Traceback" not in failed.stderr
    done = prepare(*arguments, "--config.max_bad_share=0.5")
    assert done.returncode == 0, done.stderr
    assert "skipped rows.jsonl row 2" in done.stdout
    assert read_manifest(tmp_path / "out").splits["train"].samples == 1


def test_own_table_with_other_column_names(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    pq.write_table(pa.table({"q": ["why?"], "reply": ["so"]}), raw / "train-00000-of-00001.parquet")
    columns = ("--config.own.columns.question=q", "--config.own.columns.answer=reply", "--config.own.columns.image=")
    done = prepare("own.py:layout=table", f"--config.source={raw}", f"--out={tmp_path / 'out'}", *columns)
    assert done.returncode == 0, done.stderr
    assert read_manifest(tmp_path / "out").splits["train"].samples == 1


def test_wrong_calls_say_what_is_right(tmp_path):
    missing = prepare("own.py", f"--config.source={tmp_path}", f"--out={tmp_path / 'out'}")
    assert missing.returncode == 1
    assert "own: no split to prepare" in missing.stderr
    nowhere = prepare("dataset.py:name=vqa_rad", f"--config.source={tmp_path / 'no'}", f"--out={tmp_path / 'out'}")
    assert nowhere.returncode == 1
    assert "does not exist; expected the raw files of vqa_rad" in nowhere.stderr
