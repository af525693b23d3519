"""`biomedgpt lint` and what a training makes of it, on data that has every fault."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import TINY, Called, assert_refused, biomedgpt, config, prepare_own, talk

REPORT = "The heart is of normal size and the lungs are clear without any focal consolidation or effusion"
PHONE, NAME, DATE, NUMBER = "617-555-0142", "Dr. Winterbottom", "3 May 2011", "MRN 00123456"
QUICK = ("--config.tokenizer.train_vocab_size=330", "--config.data.row_tokens=160", "--config.data.threads=1")


def picture(seed: int) -> Image.Image:
    """Smooth, as photographs are: what a smaller copy keeps."""
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((192, 224), Image.Resampling.BICUBIC)


def row(number: str, image: str | None, question: str, answer: str, **facts: str) -> dict:
    shown = {} if image is None else {"image": image}
    return {
        "id": number,
        **shown,
        "conversations": talk(question, answer),
        "task": "vqa",
        "answer_type": "closed",
        **facts,
    }


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """Prepared data; the ids of its samples say what is wrong with them."""
    raw = tmp_path_factory.mktemp("raw")
    (raw / "images").mkdir()
    for seed in range(6):
        picture(seed).save(raw / "images" / f"{seed}.png")
    picture(0).resize((150, 175), Image.Resampling.LANCZOS).save(raw / "images" / "copy.jpg", quality=80)
    Image.new("RGB", (40, 30), (9, 9, 9)).save(raw / "images" / "black.png")
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe, chest"
    picture(7).save(raw / "images" / "told.jpg", exif=exif)
    train = [
        row("plain", "0.png", "Is it red?", "no", case="c0"),
        row("again", "0.png", "Is it red?", "no", case="c0"),
        row("other", "0.png", "Is it red?", "yes", case="c0"),
        row("report", "1.png", "Describe it.", REPORT, case="c1"),
        row("flat", "black.png", "Is it red?", "no"),
        row("told", "told.jpg", "Is it red?", "no"),
        row("private", "2.png", "Who?", f"{NAME} on {DATE}, {NUMBER}, phone {PHONE}"),
        row("long", "3.png", "Describe it.", "It is red and blue and green all over the place. " * 12),
    ]
    test = [
        row("t-same", "0.png", "Is it red?", "no"),
        row("t-copy", "copy.jpg", "Is it blue?", "no"),
        row("t-report", "4.png", "Describe it.", REPORT + " today"),
        row("t-patient", "5.png", "Is it blue?", "green", case="c1"),
    ]
    (raw / "train.json").write_text(json.dumps(train))
    (raw / "test.json").write_text(json.dumps(test))
    out = tmp_path_factory.mktemp("data") / "faulty"
    called = prepare_own(raw, out)
    assert called.code == 0, called
    return out


@pytest.fixture(scope="module")
def linted(faulty, tmp_path_factory) -> tuple[Path, Called]:
    folder = tmp_path_factory.mktemp("runs") / "llama"
    smoke = config(f"smoke.py:stage=1,data={faulty}")
    return folder, biomedgpt("lint", smoke, *QUICK, "--config.data.on_overflow=truncate", f"--workdir={folder}")


def found(folder: Path) -> dict[tuple[str, str], tuple[str, int, list[str]]]:
    content = json.loads((folder / "lint.json").read_text())
    return {(f["code"], f["where"]): (f["severity"], f["count"], f["ids"]) for f in content["findings"]}


def test_every_fault_is_found_under_its_code(linted):
    folder, called = linted
    train, test = "faulty:train", "faulty:test"
    assert found(folder) == {
        ("test-sample-in-train", test): ("error", 1, ["t-same"]),
        ("test-image-in-train", test): ("warning", 1, ["t-same"]),
        ("test-image-near-train", test): ("warning", 1, ["t-copy"]),
        ("test-text-near-train", test): ("warning", 1, ["t-report"]),
        ("patient-in-two-splits", test): ("warning", 1, ["t-patient"]),
        ("duplicate-sample", train): ("warning", 1, ["again"]),
        ("two-answers", train): ("warning", 1, ["other"]),
        ("answer-cut", train): ("warning", 2, ["report", "long"]),
        ("near-images", test): ("warning", 1, ["t-copy"]),
        ("constant-image", train): ("warning", 1, ["flat"]),
        ("image-metadata", train): ("warning", 1, ["told"]),
        ("phi-name", train): ("warning", 1, ["private"]),
        ("phi-date", train): ("warning", 1, ["private"]),
        ("phi-record-number", train): ("warning", 1, ["private"]),
        ("phi-phone", train): ("warning", 1, ["private"]),
    }
    assert called.code == 1
    assert "errors, which a training refuses: test-sample-in-train" in called.err


def test_what_it_writes_holds_no_text_of_the_data(linted):
    folder, called = linted
    page = (folder / "lint.html").read_text()
    assert "test-sample-in-train" in page and "t-same" in page
    written = page + (folder / "lint.json").read_text() + called.out + called.err
    assert not [text for text in (PHONE, "Winterbottom", "00123456", "Jane Doe", "clear") if text in written]


def test_a_training_refuses_errors_unless_they_are_allowed(faulty, tmp_path):
    run = ("train", config(f"smoke.py:stage=1,data={faulty}"), *TINY, "--config.data.on_overflow=skip")
    run = (*run, QUICK[0], f"--workdir={tmp_path / 'run'}")
    assert_refused(biomedgpt(*run, "--allow=test-sample"), 2, "no such code", "Did you mean")
    refused = biomedgpt(*run)
    assert_refused(
        refused, 1, "test-sample-in-train: ", "1 of 4 in faulty:test (t-same)", "--allow=test-sample-in-train"
    )
    assert not (tmp_path / "run" / "checkpoints").exists()
    called = biomedgpt(*run, "--config.train.epochs=1", "--allow=test-sample-in-train")
    assert called.code == 0, called
    assert "lint: warning phi-phone" in called.out and PHONE not in called.out
    (scores,) = (tmp_path / "run" / "eval").glob("step_0/*/scores.json")
    facts = json.loads(scores.read_text())["facts"]
    assert facts["lint_allowed"] == ["test-sample-in-train"] and facts["lint_checks"] == "at start"
    assert facts["lint"]["test-sample-in-train"] == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["allow"] == ["test-sample-in-train"]


def test_biomedgpt_reads_its_own_way(faulty, tmp_path):
    """A closed list with an answer that training never gave, a hint, and answers that are too long."""
    answers = tmp_path / "answers.txt"
    answers.write_text("no\nyes\ngreen\n")
    folder = tmp_path / "run"
    arguments = (
        *(
            "lint",
            config(f"smoke_biomedgpt.py:data={faulty}"),
            f"--workdir={folder}",
            "--config.tokenizer.train_words=270",
        ),
        *("--config.model.vocab_size=330", "--config.model.image_size=32", f"--config.data.answers={answers}"),
        *("--config.data.hint=task", "--config.data.on_overflow=truncate"),
    )
    assert biomedgpt(*arguments).code == 1
    faults = found(folder)
    assert faults["test-answer-in-list", "faulty:test"] == ("error", 1, ["t-patient"])
    assert faults["answer-not-in-list", "faulty:test"] == ("warning", 1, ["t-report"])
    assert faults["metadata-hint", "faulty:test"][1] == 4
    assert faults["answer-cut", "faulty:train"] == ("warning", 3, ["report", "private", "long"])


def test_vqa_rad_shares_its_test_images(shared_data, tmp_path):
    """As published: 202 of the 203 test images are trained on."""
    data = tmp_path / "official"
    options = (f"--config.source={shared_data / 'vqa_rad'}", "--config.workers=1", f"--out={data}")
    assert biomedgpt("prepare", config("data/vqa_rad.py:split=official"), *options).code == 0
    smoke = config(f"smoke.py:stage=1,data={data}")
    called = biomedgpt("lint", smoke, f"--workdir={tmp_path / 'run'}", "--config.tokenizer.train_vocab_size=400")
    assert called.code == 0, called
    assert found(tmp_path / "run")["test-image-in-train", "official:test"][:2] == ("warning", 202)


def test_a_damaged_record_is_one_message(faulty, tmp_path):
    (tmp_path / "lint.json").write_text("{")
    smoke = config(f"smoke.py:stage=1,data={faulty}")
    run = ("train", smoke, *TINY, QUICK[0], "--config.data.on_overflow=skip", f"--workdir={tmp_path}")
    assert_refused(biomedgpt(*run), 1, "lint.json")
