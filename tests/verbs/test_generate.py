"""Many questions from a file, and a conversation: in this process on one loaded model, and by the command line."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.eval.decode import GREEDY, Sampling
from biomedgpt_jax.verbs.asking import Manner, answers, make_prompt, written
from biomedgpt_jax.verbs.chat import Conversation, chat
from biomedgpt_jax.verbs.loaded_model import load_model
from biomedgpt_jax.verbs.model_spec import image_transform
from tests.command import ROOT, assert_refused, biomedgpt

MANNER = Manner(GREEDY, max_new_tokens=4, context=512, key=jax.random.key(0))
DRAWN = replace(MANNER, sampling=Sampling(temperature=1.5, top_k=40, top_p=0.9))


@pytest.fixture(scope="module")
def loaded(tiny_run):
    return load_model(tiny_run.folder, None, "float32")


@pytest.fixture(scope="module")
def talker(loaded):
    """The same model with larger weights, which has something to say at once."""
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: jax.device_put(draw(rng, leaf.shape), leaf.sharding), loaded.params)
    return replace(loaded, params=drawn)


def draw(rng, shape):
    return 0.3 * rng.standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def pictures(loaded, raw_data):
    transform = image_transform(loaded.spec)
    return [transform((raw_data / "images" / f"{n}.png").read_bytes()) for n in range(3)]


def asked(loaded, question, pixels=(), earlier=(), manner=MANNER):
    turns = (*(Turn(*turn) for turn in earlier), Turn(question, ""))
    return make_prompt(loaded, Sample("q", tuple(range(len(pixels))), turns, {}), pixels, manner)


def alone(loaded, prompt, manner=MANNER):
    return "".join(written(loaded, prompt, manner))


def test_answers_in_a_batch_are_those_given_alone(talker, pictures):
    prompts = [
        asked(talker, "Is it red?", pictures[:1]),
        asked(talker, "What changed between these two, and where is it brighter than it was before?", pictures[1:]),
        asked(talker, "Yes?"),
    ]
    together = answers(talker, prompts, MANNER, rows=4, slots=2)
    assert [answer.text for answer in together] == [alone(talker, prompt).strip() for prompt in prompts]
    assert len({answer.text for answer in together}) > 1 and all(answer.truncated for answer in together)


def test_sampling_follows_its_seed(talker, pictures):
    prompt = asked(talker, "Is it red?", pictures[:1])
    other = replace(DRAWN, key=jax.random.key(1))
    said = [alone(talker, prompt, manner) for manner in (DRAWN, DRAWN, other, MANNER)]
    assert said[0] == said[1] and len(set(said)) == 3


def test_a_conversation_is_put_through_the_template(talker, pictures, raw_data):
    talk = Conversation(talker, MANNER)
    talk.show(raw_data / "images" / "0.png")
    first = "".join(talk.ask("Is it red?"))
    assert first == alone(talker, asked(talker, "<image>\nIs it red?", pictures[:1]))
    talk.show(raw_data / "images" / "1.png")
    second = "".join(talk.ask("And this?"))
    turns = [("<image>\nIs it red?", first)]
    assert second == alone(talker, asked(talker, "<image>\nAnd this?", pictures[:2], turns))
    third = "".join(talk.ask("Sure?"))
    turns.append(("<image>\nAnd this?", second))
    assert third == alone(talker, asked(talker, "Sure?", pictures[:2], turns))
    talk.reset()
    assert "".join(talk.ask("Yes?")) == alone(talker, asked(talker, "Yes?"))


def test_a_full_context_is_refused_and_changes_nothing(talker, pictures, raw_data):
    room = asked(talker, "<image>\nIs it red?", pictures[:1]).length + MANNER.max_new_tokens
    talk = Conversation(talker, replace(MANNER, context=room))
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
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    chat(Conversation(talker, MANNER))
    said = capsys.readouterr().out
    for text in (
        f"{tmp_path}/none.png",
        f"{tmp_path}/notes.txt",
        "There is no /imagine.",
        "1 <image> in its questions",
    ):
        assert text in said
    assert said.endswith(alone(talker, asked(talker, "Yes?")) + "\n\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("/quit\nYes?\n"))
    chat(Conversation(talker, MANNER))
    assert capsys.readouterr().out == ""


def test_a_file_of_questions_gets_an_answer_or_an_error_for_each(loaded, pictures, tiny_run, raw_data, tmp_path):
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
    ]
    file, out = raw_data / "asked.jsonl", tmp_path / "answers" / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    model = f"--model={tiny_run.folder}"
    called = biomedgpt("generate", model, f"--questions={file}", f"--out={out}", "--max_new_tokens=4", "--batch_rows=3")
    file.unlink()
    assert_refused(called, 1, "7 of 10 questions were not answered", "row 10: not valid JSON", "The others were.")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 10 and [path.name for path in out.parent.iterdir()] == ["out.jsonl"]
    expected = {0: ("a", pictures[:1]), 4: ("5", []), 8: ("g", pictures[1:])}
    for number, (name, pixels) in expected.items():
        row = found[number]
        (answer,) = answers(loaded, [asked(loaded, rows[number]["question"], pixels)], MANNER, rows=1, slots=2)
        assert (row["id"], row["answer"], row["truncated"]) == (name, answer.text, answer.truncated)
        assert row["images"] == rows[number].get("images", [])
    errors = {number: row["error"] for number, row in enumerate(found) if "error" in row}
    assert errors.keys() == {1, 2, 3, 5, 6, 7, 9}
    assert "expected a relative path inside the image folder" in errors[1] and "relative path" in errors[2]
    assert "9.png" in errors[3] and "id 'a' stands in an earlier row" in errors[5] and "empty" in errors[6]
    assert "expected a list of paths, found str" in errors[7]


def test_ways_to_ask_that_do_not_fit_are_refused(tmp_path):
    model = "--model=x"
    assert_refused(biomedgpt("generate", model, "--question=a", "--chat"), 2, "are three ways to ask; choose one")
    (tmp_path / "a.png").write_bytes(b"")
    image = f"--image={tmp_path}/a.png"
    assert_refused(biomedgpt("generate", model, "--chat", image), 2, "a chat takes /image PATH")
    assert_refused(biomedgpt("generate", model, f"--questions={tmp_path}/q.jsonl"), 1, "q.jsonl does not exist")


def read_until(terminal: int, mark: str) -> str:
    """What the program wrote up to `mark`; fails where it ends before."""
    said = ""
    while not said.endswith(mark):
        said += os.read(terminal, 1024).decode()
    return said


def test_chat_in_a_terminal_streams_and_ends_with_ctrl_c(tiny_run, raw_data, loaded, pictures):
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
        assert alone(loaded, asked(loaded, "<image>\nIs it red?", pictures[:1])) in said
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
