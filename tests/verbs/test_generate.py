"""Many questions from a file, and a conversation: in this process on one loaded model, and by the command line."""

import copy
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.rows import ImageFile
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.eval.beam import Beams
from biomedgpt_jax.eval.row_decode import GREEDY, Sampling
from biomedgpt_jax.verbs.assistant import Assistant, End, Manner, Request, readable, rounded
from biomedgpt_jax.verbs.chat import Conversation, aloud, chat
from biomedgpt_jax.verbs.loaded_model import load_model
from biomedgpt_jax.verbs.med_reader import MedReader
from tests.command import ROOT, assert_refused, biomedgpt
from tests.compiler import xla_flags

MANNER = Manner(GREEDY, max_new_tokens=4, seeds=(0, 0))
DRAWN = replace(MANNER, sampling=Sampling(temperature=1.5, top_k=40, top_p=0.9))


@pytest.fixture(scope="module")
def assistant(tiny_run):
    return Assistant(MedReader(load_model(tiny_run.folder, None, "float32"), context=512), rows=4)


@pytest.fixture(scope="module")
def talker(assistant):
    """The same model with larger weights, which has something to say at once."""
    rng = np.random.default_rng(0)
    reader = copy.copy(assistant.reader)
    reader.params = jax.tree.map(lambda leaf: jax.device_put(draw(rng, leaf.shape), leaf.sharding), reader.params)
    return Assistant(reader, rows=4)


def draw(rng, shape):
    return 0.3 * rng.standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def pictures(raw_data):
    folder = raw_data / "images"
    return [ImageFile(folder / f"{n}.png", f"images/{n}.png", folder) for n in range(3)]


def asked(question, images=(), earlier=(), manner=MANNER):
    return Request("q", (*(Turn(*turn) for turn in earlier), Turn(question, "")), tuple(images), manner)


def alone(assistant, request):
    return "".join(aloud(assistant, request))


def tokens(assistant, request):
    return assistant.prompt(request).tokens


def test_answers_in_a_batch_are_those_given_alone(talker, pictures):
    """With settings of their own, whatever their neighbours are."""
    requests = [
        asked("Is it red?", pictures[:1]),
        asked("What changed between these two, and where is it brighter than it was before?", pictures[1:]),
        asked("Yes?", manner=replace(MANNER, max_new_tokens=2)),
        asked("Is it red?", pictures[:1], manner=DRAWN),
        asked("Is it red?", pictures[:1], manner=replace(DRAWN, seeds=(1, 0))),
        asked("Is it red?", pictures[:1], manner=replace(DRAWN, seeds=(0, 1))),
    ]
    together = talker.answer([talker.prompt(request) for request in requests])  # in batches of 4 and 2
    assert [answer.text for answer in together] == [alone(talker, request) for request in requests]
    assert len({answer.text for answer in together}) == 6
    assert [answer.tokens for answer in together] == [4, 4, 2, 4, 4, 4]
    assert {answer.end for answer in together} == {End.LENGTH}


def test_beams_find_whole_answers(talker, pictures):
    """On the eight devices of the tests: one beam says what is said greedily, of several another text is likelier."""
    prompts = [talker.prompt(asked("Is it red?", pictures[:1])), talker.prompt(asked("Yes?"))]
    one, several = (Assistant(talker.reader, 4, beams=Beams(beams, 0.0, 0, 1)) for beams in (1, 3))
    greedy = talker.answer(prompts)
    assert one.answer(prompts) == greedy and {said.end for said in greedy} == {End.LENGTH}
    found = several.answer(prompts)
    assert all(said.text and said.tokens <= 4 for said in found) and found != greedy


def test_an_answer_ends_before_a_stop_text_and_shows_none_of_it(talker, pictures):
    whole = alone(talker, asked("Is it red?", pictures[:1]))
    stop = whole[1:3]
    manner = replace(MANNER, stop=("never said", stop))
    prompt = talker.prompt(asked("Is it red?", pictures[:1], manner=manner))
    (stopped,) = talker.answer([prompt])
    assert (stopped.text, stopped.end) == (whole[: whole.index(stop)].rstrip(), End.STOP) and stopped.tokens < 4
    assert alone(talker, asked("Is it red?", pictures[:1], manner=manner)) == stopped.text


@pytest.mark.parametrize(
    ("text", "stop", "over", "shown"),
    [
        ("\n It is ", (), False, "It is"),
        ("It is \ufffd", (), False, "It is"),
        ("It is \ufffd", (), True, "It is \ufffd"),
        ("so##", ("###",), False, "so"),
        ("so##", ("###",), True, "so##"),
        ("so # that", ("###",), False, "so # that"),
        ("a b a", ("b", " a"), False, "a"),
    ],
)
def test_what_may_yet_change_is_held_back(text, stop, over, shown):
    assert readable(text, stop, over)[0] == shown


def test_lengths_are_rounded_to_a_few():
    assert sorted({rounded(length, 64) for length in range(1, 1000)}) == [64, 128, 192, 256, 384, 512, 768, 1024]
    assert all(rounded(length, 1) >= length for length in range(1, 99))


def test_a_conversation_is_put_through_the_template(talker, pictures, raw_data):
    talk = Conversation(talker, MANNER)
    talk.show(raw_data / "images" / "0.png")
    first = "".join(talk.ask("Is it red?"))
    assert first == alone(talker, asked("<image>\nIs it red?", pictures[:1]))
    talk.show(raw_data / "images" / "1.png")
    second = "".join(talk.ask("And this?"))
    turns = [("<image>\nIs it red?", first)]
    assert second == alone(talker, asked("<image>\nAnd this?", pictures[:2], turns))
    third = "".join(talk.ask("Sure?"))
    turns.append(("<image>\nAnd this?", second))
    assert third == alone(talker, asked("Sure?", pictures[:2], turns))
    talk.reset()
    assert "".join(talk.ask("Yes?")) == alone(talker, asked("Yes?"))


def test_a_full_context_is_refused_and_changes_nothing(talker, pictures, raw_data):
    room = tokens(talker, asked("<image>\nIs it red?", pictures[:1])) + MANNER.max_new_tokens
    reader = copy.copy(talker.reader)
    reader.longest = room
    talk = Conversation(Assistant(reader, rows=1), MANNER)
    talk.show(raw_data / "images" / "0.png")
    first = "".join(talk.ask("Is it red?"))
    for _ in range(2):
        with pytest.raises(RunError, match=r"the context is full: \d+ tokens so far \(1 images of 49\)"):
            "".join(talk.ask("And now?"))
    talk.reset()
    talk.show(raw_data / "images" / "0.png")
    assert "".join(talk.ask("Is it red?")) == first


def test_chat_goes_on_after_mistakes_and_ends_with_its_input(talker, monkeypatch, capsys, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    lines = [f"/image {tmp_path}/none.png", f"/image {tmp_path}/notes.txt", "/imagine", "", "An <image>?", "Yes?"]
    typed = "\n".join(lines).encode() + b"\ncaf\xe9?\nnul \0\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
    chat(Conversation(talker, MANNER))
    said = capsys.readouterr().out
    for text in (
        f"{tmp_path}/none.png",
        f"{tmp_path}/notes.txt",
        "There is no /imagine.",
        "1 <image> in its questions",
        alone(talker, asked("Yes?")) + "\nthe line is not valid Unicode",
        "the line contains a NUL byte",
    ):
        assert text in said
    monkeypatch.setattr(sys, "stdin", io.StringIO("/quit\nYes?\n"))
    chat(Conversation(talker, MANNER))
    assert capsys.readouterr().out == ""


def test_a_file_of_questions_gets_an_answer_or_an_error_for_each(assistant, pictures, tiny_run, raw_data, tmp_path):
    rows = [
        {"id": "a", "images": ["images/0.png"], "question": "Is it red?"},
        {"id": "b", "images": ["../raw.png"], "question": "Is it red?"},
        {"id": "c", "images": [f"{raw_data}/images/0.png"], "question": "Is it red?"},
        {"id": "d", "images": ["images/9.png"], "question": "Is it red?"},
        {"question": "Yes?"},
        {"id": "a", "question": "Again?"},
        {"id": "e", "question": " "},
        {"id": "f", "images": "images/0.png", "question": "Is it red?"},
        {"id": "g", "images": ["images/1.png", "images/2.png"], "question": "Is it red?"},
        {"id": "h", "image": "images/0.png", "question": "Is it red?"},
    ]
    file, out = raw_data / "asked.jsonl", tmp_path / "answers" / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    model = f"--model={tiny_run.folder}"
    called = biomedgpt("generate", model, f"--questions={file}", f"--out={out}", "--max_new_tokens=4", "--batch_rows=3")
    file.unlink()
    assert_refused(called, 1, "8 of 11 questions were not answered", "row 11: not valid JSON", "The others were.")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 11 and [path.name for path in out.parent.iterdir()] == ["out.jsonl"]
    expected = {0: ("a", pictures[:1]), 4: ("5", []), 8: ("g", pictures[1:])}
    for number, (name, images) in expected.items():
        row = found[number]
        (answer,) = assistant.answer([assistant.prompt(asked(rows[number]["question"], images))])
        assert (row["id"], row["answer"], row["truncated"]) == (name, answer.text, answer.end is End.LENGTH)
        assert row["images"] == rows[number].get("images", [])
    errors = {number: row["error"] for number, row in enumerate(found) if "error" in row}
    assert errors.keys() == {1, 2, 3, 5, 6, 7, 9, 10}
    assert "expected a relative path inside the image folder" in errors[1] and "relative path" in errors[2]
    assert "9.png" in errors[3] and "id 'a' stands in an earlier row" in errors[5] and "empty" in errors[6]
    assert "expected a list of paths, found str" in errors[7] and "found `image`" in errors[9]


def test_ways_to_ask_that_do_not_fit_are_refused(tmp_path):
    model = "--model=x"
    assert_refused(biomedgpt("generate", model, "--question=a", "--chat"), 2, "are three ways to ask; choose one")
    (tmp_path / "a.png").write_bytes(b"")
    image = f"--image={tmp_path}/a.png"
    assert_refused(biomedgpt("generate", model, "--chat", image), 2, "a chat takes /image PATH")
    assert_refused(biomedgpt("generate", model, f"--questions={tmp_path}/q.jsonl"), 1, "q.jsonl does not exist")
    (tmp_path / "q.jsonl").write_text("\n")
    assert_refused(biomedgpt("generate", model, f"--questions={tmp_path}/q.jsonl"), 1, "q.jsonl holds no row")
    assert_refused(biomedgpt("generate", model, "--question= "), 2, "--question is empty")
    ask = ("generate", model, "--question=a")
    assert_refused(biomedgpt(*ask, "--no_repeat=3"), 2, "--beams=N is missing for --no_repeat")
    assert_refused(biomedgpt(*ask, "--beams=2", "--top_k=3"), 2, "--beams does not draw; leave out --top_k")
    assert_refused(biomedgpt(*ask, "--beams=2", "--min_length=200"), 2, "more than --max_new_tokens=128")
    assert_refused(
        biomedgpt("generate", model, "--question=a", f"--out={tmp_path}"), 2, "is a folder, expected the name"
    )
    called = biomedgpt("generate", model, f"{image[:-4]},b.png", "--question=a")
    assert_refused(called, 2, "there is no file", "A comma separates files")
    for wrong in ("--top_p=0", "--top_p=1.5", "--top_k=-1", "--temperature=nan"):
        called = biomedgpt("generate", model, "--question=a", wrong)
        assert_refused(called, 2, wrong[2:].replace("=0", "=0.0"), "expected temperature and top_k 0 or more")


def read_until(terminal: int, mark: str) -> str:
    """What the program wrote up to `mark`; fails where it ends before."""
    said = ""
    while not said.endswith(mark):
        said += os.read(terminal, 1024).decode()
    return said


def test_chat_in_a_terminal_streams_and_ends_with_ctrl_c(tiny_run, raw_data, assistant, pictures):
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "biomedgpt_jax", "generate", f"--model={tiny_run.folder}", "--chat"]
    process = subprocess.Popen(
        [*command, "--max_new_tokens=4"], cwd=ROOT, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    )
    os.close(inside)
    try:
        assert "/image PATH shows a picture" in read_until(terminal, "> ")
        os.write(terminal, f"/image {raw_data}/images/0.png\n".encode())
        read_until(terminal, "> ")
        os.write(terminal, b"Is it red?\n")
        said = read_until(terminal, "> ").replace("\r\n", "\n")
        assert alone(assistant, asked("<image>\nIs it red?", pictures[:1])) in said
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def interrupted(process):
    """(exit code, stdout, stderr) after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def start(*arguments):
    command = [sys.executable, "-m", "biomedgpt_jax", "generate", *map(str, arguments)]
    environment = {**os.environ, "XLA_FLAGS": xla_flags(1)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_ctrl_c_keeps_the_rows_that_are_answered(tiny_run, tmp_path):
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(json.dumps({"id": str(n), "question": "Is it red?"}) + "\n" for n in range(20_000)))
    process = start(f"--model={tiny_run.folder}", f"--questions={asked}", f"--out={out}", "--batch_rows=2")
    unfinished = tmp_path / "out.jsonl.unfinished"
    try:
        while process.poll() is None and not (unfinished.is_file() and unfinished.stat().st_size):
            time.sleep(0.02)
        code, _, err = interrupted(process)
    finally:
        process.kill()
    rows = [json.loads(line) for line in unfinished.read_text().splitlines()]
    assert code == 1 and f"interrupted: {len(rows)} of 20000 rows are in {unfinished}" in err, err
    assert "Traceback" not in err and not out.exists()
    assert [row["id"] for row in rows] == [str(n) for n in range(len(rows))] and "answer" in rows[-1]


def test_ctrl_c_ends_an_answer_in_its_midst(tiny_run):
    # All words are as likely; with this seed no stop token comes among the first 500.
    drawn = ("--temperature=1000", "--seed=83", "--max_new_tokens=20000", "--context=30000")
    process = start(f"--model={tiny_run.folder}", "--question=Is it red?", *drawn)
    assert process.stdout is not None
    try:
        first = process.stdout.read(1)
        code, rest, err = interrupted(process)
    finally:
        process.kill()
    assert code == 1 and err.endswith("interrupted before the answer was whole.\n"), err
    assert first and rest.endswith("\n") and "Traceback" not in err
