"""Each published table, and rows of it that are broken; prepared files and what is said of those left out."""

import base64
import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from biomedgpt_jax.data.biomedgpt_tsv import TABLES, read_biomedgpt_tsv
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.layouts import biomedgpt_files, own_dataset
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.rows import BadRow, Row
from biomedgpt_jax.data.source import PreparedSplit
from tests.command import assert_refused, biomedgpt, config


@pytest.fixture
def image(make_jpeg: Callable[..., bytes]) -> str:
    return base64.b64encode(make_jpeg(3)).decode()


def read(tmp_path: Path, table: str, *lines: str) -> list[Row | BadRow]:
    path = tmp_path / "train.tsv"
    path.write_text("\n".join(lines) + "\n")
    return list(read_biomedgpt_tsv(path, table))


def test_vqa(tmp_path: Path, image: str, make_jpeg: Callable[..., bytes]) -> None:
    urlsafe = base64.urlsafe_b64encode(make_jpeg(3)).decode()
    first, yes, *broken = read(
        tmp_path,
        "vqa",
        f"q1\tim1\twhat organ?\t0.3|!+liver&&0.7|!+left  lung&&0.7|!+heart\tchest\t{image}",
        f"q2\tim1\tis it?\t1|!+Yes\t\t{urlsafe}",
        f"q3\tim1\tis it\tnormal?\t1.0|!+yes\t\t{image}",
        "q4\tim1\tq\t1.0|!+yes\t\tnot base64!",
        f"q5\tim1\tq\tyes\t\t{image}",
        f"q6\tim1\tq\t0|!+yes\t\t{image}",
        f"q7\tim1\tq\t1|!+ \t\t{image}",
        "q8\tim1\tq\t1|!+yes\t\t",
    )
    assert isinstance(first, Row) and isinstance(yes, Row)
    assert (first.id, first.turns) == ("train-q1", (("what organ?", "left lung"),))
    assert first.images[0].read() == yes.images[0].read() == make_jpeg(3)
    assert (first.meta["answer_type"], first.meta["objects"], first.meta["confidence"]) == ("open", "chest", 0.7)
    assert (yes.meta["answer_type"], yes.meta["confidence"]) == ("closed", 1.0)
    assert [row.row for row in broken] == [3, 4, 5, 6, 7, 8]
    reasons = (
        "expected 6 tab-separated columns of a vqa file, found 7",
        "image column is not base64",
        "expected confidence|!+answer",
        "confidence 0 is no number above 0",
        "the answer of turn 1 is empty",
        "image column is empty",
    )
    for row, reason in zip(broken, reasons, strict=True):
        assert isinstance(row, BadRow) and reason in row.reason


# table, cells of a row ("I": an image), question, answer, part of meta
GOOD = [
    ("classification", "I\t3\tnormal,  benign", "What does the image describe?", "normal, benign", {"label": 3}),
    ("caption", "c1\tim\tLungs clear.\t\tI", "What does the image describe?", "Lungs clear.", {"task": "caption"}),
    ("nli", "He  coughs.\tHe is ill.\t2", "He coughs.\nDoes this imply: He is ill.", "no",
     {"task": "nli", "texts": ["He coughs.", "He is ill."], "choices": ["maybe", "yes", "no"]}),
    ("summary", "long  text\tshort", "Summarise this text:\nlong text", "short", {"document": "long text"}),
    ("trial", "9\ta  man\tadults only\t1", "Patient: a man\nTrial: adults only\nIs the patient eligible for the trial? "
     "Choose one: not relevant; excluded; eligible.", "excluded", {"task": "trial", "texts": ["a man", "adults only"]}),
    ("vision_language", "7\tI\ta lung\t\t\tlung&&heart\tset\tcaption", "What does the image describe?", "a lung",
     {"task": "caption", "objects": ["lung", "heart"], "source": "set"}),
    ("vision_language", "7\tI\t\twhat?\t0.5|!+lung\t\tset\tqa", "what?", "lung", {"task": "vqa", "confidence": 0.5}),
    ("vision_language", "7\tI\ta lung\t\t1,2,3.5,4\t\tset\tvisual_grounding", "what does the region describe?",
     "a lung", {"task": "grounding", "box": [1.0, 2.0, 3.5, 4.0]}),
    ("text", "7\tsome text", "what is the complete text?", "some text", {"task": "text"}),
    ("image", "7\tI\t1 2 3 4", "what is the image in the middle part?", "1 2 3 4", {"task": "image_codes"}),
    ("detection", "7\tI\t1,2,3,4,0,mass&&5,5,6,6,1,a, b", "what are the objects in the image?", "mass, a, b",
     {"task": "detection", "boxes": [[1.0, 2.0, 3.0, 4.0, "mass"], [5.0, 5.0, 6.0, 6.0, "a, b"]]}),
]  # fmt: skip


@pytest.mark.parametrize(("table", "cells", "question", "answer", "meta"), GOOD)
def test_tables(table: str, cells: str, question: str, answer: str, meta: dict, tmp_path: Path, image: str) -> None:
    (row,) = read(tmp_path, table, "\t".join(image if cell == "I" else cell for cell in cells.split("\t")))
    assert isinstance(row, Row), row
    assert row.turns == ((question, answer),) and len(row.images) == (table not in ("nli", "summary", "trial", "text"))
    assert {key: row.meta[key] for key in meta} == meta


def test_all_tables_are_tried() -> None:
    assert {"vqa", *(table for table, *_ in GOOD)} == set(TABLES)


BAD = [
    ("classification", "I\tbenign\t3", "number of the label"),
    ("nli", "a\tb\t3", "label: expected one of 0, 1, 2, found '3'"),
    ("nli", "1\tHe has pain.\tShe coughs.", "found a text of 11 characters"),
    ("nli", "a\t \t1", "one of the two texts is empty"),
    ("summary", " \tshort", "the text to summarise is empty"),
    ("summary", "long\t", "answer of turn 1 is empty"),
    ("vision_language", "7\tI\ta\t\t1,2,3\t\tset\tvisual_grounding", "expected four numbers"),
    ("vision_language", "7\tI\ta\t\t\t\tset\tpoem", "expected caption, qa or visual_grounding, found 'poem'"),
    (
        "trial",
        "a man\tadults\t1\t9",
        "judgement: expected one of 0, 1, 2, found '9'; the order of the columns was never",
    ),
    ("trial", "9\ta man\t\t1", "one of the two texts is empty"),
    ("text", "7\t", "answer of turn 1 is empty"),
    ("image", "7\tI\t1 x", "codes: expected numbers"),
    ("detection", "7\tI\t3,2,1,4,0,mass", "are not in order"),
    ("detection", "7\tI\t1,2,3,4,mass", "expected x0,y0,x1,y1,number,label"),
]


@pytest.mark.parametrize(("table", "cells", "reason"), BAD)
def test_broken_rows(table: str, cells: str, reason: str, tmp_path: Path, image: str) -> None:
    (row,) = read(tmp_path, table, cells.replace("I\t", image + "\t"))
    assert isinstance(row, BadRow) and row.row == 1 and reason in row.reason


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    first, second = read(tmp_path, "text", "", "1\tno effusion", "", "only one cell", "")
    assert isinstance(first, Row) and (first.id, first.row) == ("train-1", 2)
    assert isinstance(second, BadRow) and second.row == 4


def test_a_packed_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(gzip.compress(b"1\tno effusion\n"))
    with pytest.raises(DataError, match=r"train\.tsv is packed \(gzip\): unpack it first"):
        list(read_biomedgpt_tsv(path, "text"))


def test_columns_of_a_trial_file_in_another_order(tmp_path: Path) -> None:
    """Called again with the right order, nothing of the wrong one is used."""
    (tmp_path / "train.tsv").write_text("adults\ta man\t2\t7\nadults\ta woman\t0\t8\n")
    called = ("prepare", config("data/own.py:layout=biomedgpt-trial,name=trec,train=train.tsv"))
    called = (*called, f"--config.source={tmp_path}", f"--out={tmp_path / 'out'}", "--config.workers=1")
    assert_refused(biomedgpt(*called), 1, "train.tsv row 1: judgement: expected one of 0, 1, 2, found '7'")
    wrong = "--config.own.trial_order=('criteria','note')"
    assert_refused(biomedgpt(*called, wrong), 1, "expected id, note, criteria, judgement, found ('criteria', 'note')")
    right = biomedgpt(*called, "--config.own.trial_order=('criteria','note','judgement','id')")
    assert right.code == 0, right
    first = PreparedSplit(tmp_path / "out", "train")[0]
    assert (first.id, first.turns[0].answer, first.meta["texts"]) == ("train-7", "eligible", ["a man", "adults"])


def test_prepared_with_a_summary_of_what_is_left_out(
    tmp_path: Path, image: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    broken = base64.b64encode(b"no picture").decode()
    lines = [f"{image}\t0\tnormal", f"{broken}\t1\tmass", "short", f"{image}\t1\tmass"]
    (raw / "train.tsv").write_text("\n".join(lines) + "\n")
    spec = own_dataset("mine", biomedgpt_files({"train": "train.tsv"}, "classification"))
    with pytest.raises(DataError, match=r"2 of 4 rows cannot be used.*first: train\.tsv row 2: .*not a readable image"):
        prepare_dataset(spec, tmp_path / "out", source_dir=raw)
    with caplog.at_level(logging.WARNING):
        manifest = prepare_dataset(spec, tmp_path / "out", source_dir=raw, max_bad_share=0.5)
    assert manifest.splits["train"].skipped == 2
    assert [(row.file, row.row) for row in manifest.skipped] == [("train.tsv", 2), ("train.tsv", 3)]
    assert "skipped train.tsv row 3: expected 3 tab-separated columns" in caplog.text
    split = PreparedSplit(tmp_path / "out", "train")
    assert [split[n].turns[0].answer for n in range(2)] == ["normal", "mass"] and split.num_images == 1
