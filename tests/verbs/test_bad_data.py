"""Broken raw data: each bad row is named with its file and reason, and nothing that was done is lost."""

import json
import shutil

import pytest
from PIL import Image

from tests.command import TINY, assert_refused, biomedgpt, config, contents, prepare_own, talk, write_raw


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw")


def with_row(raw, **changes):
    rows = json.loads((raw / "train.json").read_text())
    rows[2] = {**rows[2], **changes}
    (raw / "train.json").write_text(json.dumps(rows))


def truncate_image(raw):
    file = raw / "images" / "cut.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with_row(raw, image="cut.jpg")


BAD_ROWS = {
    "truncated image": (truncate_image, "cut.jpg"),
    "no such image": (lambda raw: with_row(raw, image="none.png"), "none.png: image file not found"),
    "absolute path": (lambda raw: with_row(raw, image="/etc/hostname"), "image path '/etc/hostname': expected a rel"),
    "path that leaves": (lambda raw: with_row(raw, image="../train.json"), "expected a relative path inside the image"),
    "no picture": (lambda raw: with_row(raw, image="text.png"), "text.png"),
    "no answer": (lambda raw: with_row(raw, conversations=talk("Why?", " ")), "the answer of turn 1 is empty"),
    "no conversation": (lambda raw: with_row(raw, conversations="hello"), "conversations: expected a list, found str"),
    "wrong order": (lambda raw: with_row(raw, conversations=talk("a", "b")[::-1]), "the last question has no answer"),
    "marks without images": (
        lambda raw: with_row(raw, conversations=talk("<image>\n<image>\nWhy?", "so")),
        "2 <image> in the questions, 1 images in the row",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_named_and_the_rest_kept_when_allowed(name, raw, tmp_path):
    spoil, reason = BAD_ROWS[name]
    (raw / "images" / "text.png").write_text("no picture")
    spoil(raw)
    out = tmp_path / "out"
    refused = prepare_own(raw, out)
    assert_refused(
        refused, 1, "1 of 8 rows cannot be used, allowed share 0", "train.json row 3: ", reason, "max_bad_share"
    )
    assert not out.exists()
    work = contents(tmp_path / "out.partial")
    assert any("train/shard-00000" in file for file in work)

    allowed = prepare_own(raw, out, "--config.max_bad_share=0.2")
    assert allowed.code == 0, allowed
    assert "skipped train.json row 3" in allowed.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["splits"]["train"]["samples"] == 7 and manifest["splits"]["train"]["skipped"] == 1
    assert [(row["file"], row["row"]) for row in manifest["skipped"]] == [("train.json", 3)]
    # The finished work was used, not made again.
    assert set(work.values()) & set(contents(out).values())


def test_broken_line_of_jsonl_is_a_bad_row(raw, tmp_path):
    rows = json.loads((raw / "train.json").read_text())
    lines = [json.dumps(row) for row in rows]
    lines[4] = lines[4][:30]
    (raw / "rows.jsonl").write_text("\n".join(lines) + "\n")
    refused = prepare_own(raw, tmp_path / "out", files="train=rows.jsonl")
    assert_refused(refused, 1, "rows.jsonl row 5: not valid JSON", "1 of 8 rows cannot be used")


def test_broken_json_list_is_refused_as_a_whole(raw, tmp_path):
    text = (raw / "train.json").read_text()
    (raw / "train.json").write_text(text[:-20])
    assert_refused(prepare_own(raw, tmp_path / "out"), 1, "train.json: not valid JSON")


def test_other_data_never_overwrites_prepared_data(raw, prepared_data, tmp_path):
    before = contents(prepared_data)
    called = prepare_own(raw, prepared_data, files="train=test.json")
    assert_refused(called, 1, "already holds 'tiny' made from other data or settings", "give another folder")
    assert contents(prepared_data) == before


def test_empty_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    called = prepare_own(tmp_path / "empty", tmp_path / "out")
    assert_refused(called, 1, "train.json", "no such file", "holds: nothing")
    table = biomedgpt(
        "prepare", config("data/own.py:layout=table"), f"--config.source={tmp_path}/empty", f"--out={tmp_path}/out"
    )
    assert_refused(table, 1, f"{tmp_path}/empty")
    assert not (tmp_path / "out").exists()


def test_data_without_answer_types_is_refused_before_training(raw, tmp_path):
    plain = write_raw(tmp_path / "plain", scored=False)
    data = tmp_path / "data"
    assert prepare_own(plain, data).code == 0
    train = ("train", config(f"smoke.py:stage=1,data={data}"), *TINY, f"--workdir={tmp_path / 'run'}")
    called = biomedgpt(*train)
    assert_refused(
        called, 1, "sample t0 (test.json row 1) has no answer_type nor task", "Give both to each row of the raw data"
    )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_damaged_prepared_data_is_named(prepared_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(prepared_data, data)
    (file,) = data.glob("train/samples-*.array_record")
    file.write_bytes(file.read_bytes()[:100])
    train = ("train", config(f"smoke.py:stage=1,data={data}"), *TINY, f"--workdir={tmp_path / 'run'}")
    assert_refused(biomedgpt(*train), 1, f"{file}", "damaged", "prepare again")
    file.unlink()
    assert_refused(biomedgpt(*train), 1, f"{file} is named in the manifest", "is missing; prepare again")
    (data / "manifest.json").write_text("{")
    assert_refused(biomedgpt(*train), 1, "manifest.json is not readable JSON")
