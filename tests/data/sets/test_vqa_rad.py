"""VQA-RAD as published: exact counts, and nothing shared between the disjoint splits."""

import json
import shutil

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.rows import Row
from biomedgpt_jax.data.sets.vqa_rad import VQA_RAD, VQA_RAD_OFFICIAL


@pytest.fixture(scope="module")
def raw(shared_data):
    return shared_data / "vqa_rad"


def by_split(spec, raw):
    return {name: list(split.rows()) for name, split in spec.read(raw).splits.items()}


def test_disjoint_split_has_the_stated_counts(raw):
    splits = by_split(VQA_RAD, raw)
    own = {name: [row for row in rows if row.meta["task"] == "vqa"] for name, rows in splits.items()}
    organ = {name: [row for row in rows if row.meta["task"] == "organ"] for name, rows in splits.items()}
    assert {name: len(rows) for name, rows in own.items()} == {"train": 1554, "validation": 238, "test": 456}
    assert {name: len(rows) for name, rows in organ.items()} == {"train": 213, "validation": 34, "test": 67}
    assert {name: len(rows) for name, rows in splits.items()} == VQA_RAD.published


def test_disjoint_splits_share_no_image_and_no_case(raw):
    entries = json.loads((raw / "VQA_RAD Dataset Public.json").read_text())
    case = {entry["image_name"]: entry["image_case_url"] for entry in entries}
    images = {name: {row.meta["image_name"] for row in rows} for name, rows in by_split(VQA_RAD, raw).items()}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not images[one] & images[other]
        assert not {case[name] for name in images[one]} & {case[name] for name in images[other]}
    assert len(set.union(*images.values())) == 314


def test_rows_say_what_the_file_says(raw):
    rows = {row.id: row for rows in by_split(VQA_RAD, raw).values() for row in rows if isinstance(row, Row)}
    first = rows["vqa_rad-0"]
    assert first.turns == (("Are regions of the brain infarcted?", "Yes"),)
    assert first.meta["answer_type"] == "closed"
    assert first.meta["question_type"] == "PRES"
    assert first.images[0].name == "synpic54610.jpg"
    organ = rows["vqa_rad-organ-synpic54610"]
    assert organ.turns == (("Which part of the body is shown?", "head"),)
    assert organ.meta["choices"] == ["head", "chest", "abdomen"]
    assert {row.meta["answer_type"] for row in rows.values()} == {"open", "closed"}  # one is published as
    "CLOSED "
    assert not any("\t" in text for row in rows.values() for turn in row.turns for text in turn)


def test_official_split_has_the_published_counts(raw):
    splits = by_split(VQA_RAD_OFFICIAL, raw)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1793, "test": 451}
    closed = [row for row in splits["test"] if row.meta["answer_type"] == "closed"]
    assert len(closed) == 272
    assert sum(row.turns[0][1].lower() == "no" for row in closed) == 133
    shared = {row.meta["image_name"] for row in splits["train"]} & {row.meta["image_name"] for row in splits["test"]}
    assert len(shared) == 202


def test_prepared_folder(raw, tmp_path):
    manifest = prepare_dataset(VQA_RAD, tmp_path / "vqa_rad", source_dir=raw)
    assert {name: split.images for name, split in manifest.splits.items()} == {
        "train": 213,
        "validation": 34,
        "test": 67,
    }
    assert manifest.skipped == ()
    assert manifest.licence == "CC0-1.0"


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected one file 'VQA_RAD Dataset Public\.json', found no such file"):
        VQA_RAD.read(tmp_path)
    (tmp_path / "VQA_RAD Dataset Public.json").write_text('[{"image_name": "a.jpg"}]')
    with pytest.raises(DataError, match="row 1: no field"):
        VQA_RAD.read(tmp_path)


def test_the_folder_name_of_the_osf_archive_is_known(raw, tmp_path):
    shutil.copy(raw / "VQA_RAD Dataset Public.json", tmp_path)
    with pytest.raises(DataError, match="'images' or 'VQA_RAD Image Folder'"):
        VQA_RAD.read(tmp_path)
    (tmp_path / "VQA_RAD Image Folder").symlink_to(raw / "images")
    row = next(iter(VQA_RAD.read(tmp_path).splits["test"].rows()))
    assert row.images[0].read()[:2] == b"\xff\xd8"
