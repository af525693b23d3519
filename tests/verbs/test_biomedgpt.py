"""BiomedGPT through the command line, from shapes alone and in a tiny run."""

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import openai
import pytest

from biomedgpt_jax.data.pair_batches import PairShape
from biomedgpt_jax.data.pair_encoding import EncodedPair
from biomedgpt_jax.data.rows import ImageBytes
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.eval.row_decode import GREEDY
from biomedgpt_jax.verbs import command_line, ledger
from biomedgpt_jax.verbs.assistant import Assistant, Manner, Request
from biomedgpt_jax.verbs.biomedgpt import BIOMEDGPT
from biomedgpt_jax.verbs.chat import Conversation, aloud
from biomedgpt_jax.verbs.linting import score_facts
from biomedgpt_jax.verbs.loaded_pairs import load_pairs
from biomedgpt_jax.verbs.pair_answers import prompt_shapes
from biomedgpt_jax.verbs.pair_reader import PairReader
from tests.command import ROOT, Called, assert_refused, biomedgpt, config
from tests.serving import NAME, picture, serving, text

PUBLISHED = {"tiny": ("33,488,336", 256), "huge": ("929,486,848", 1280)}  # parameters, width
# Two steps of the tiny data, at sizes that compile fast.
SHORT = (
    "--config.model.image_size=32",
    "--config.model.vocab_size=330",
    "--config.model.dropout=0.1",
    "--config.tokenizer.train_words=270",
    "--config.data.source_tokens=24",
    "--config.data.target_tokens=24",
    "--config.train.batch_rows=8",
    "--config.train.epochs=2",
    "--config.train.save_every=1",
    "--config.log.tensorboard=False",
)


@dataclass(frozen=True)
class Small:
    """A finished run and the arguments that made it."""

    folder: Path
    arguments: tuple[str, ...]
    called: Called


@pytest.fixture(scope="module")
def small(prepared_data, tmp_path_factory) -> Small:
    folder = tmp_path_factory.mktemp("runs") / "small"
    arguments = ("train", config(f"smoke_biomedgpt.py:data={prepared_data}"), *SHORT, f"--workdir={folder}")
    return Small(folder, arguments, biomedgpt(*arguments))


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_ledger_counts_as_published(size):
    called = biomedgpt("ledger", config(f"biomedgpt.py:task=vqa,size={size}"))
    assert called.code == 0, called
    text = " ".join(called.out.split())
    parameters, width = PUBLISHED[size]
    assert f"{parameters} parameters" in text
    assert f"Not counted: {63 * width:,} of padding" in text


def test_a_run_learns_keeps_its_average_and_is_scored(small):
    assert small.called.code == 0, small.called
    assert "2 answers" in small.called.out and "Done: 2 steps" in small.called.out
    rows = [json.loads(line) for line in (small.folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row for row in rows if "loss" in row}
    assert losses.keys() == {1, 2} and losses[1]["images"] == 8
    # Two answers of one word each and their end, which is sure: log 2 over both words.
    assert 0.2 < losses[1]["loss"] < 0.8
    stored = {path.name for path in (small.folder / "checkpoints" / "2").iterdir()}
    assert {"trainable", "statistics", "average"} <= stored
    scores = json.loads(next(small.folder.glob("eval/step_2/*/scores.json")).read_text())
    assert scores["facts"]["decoding"]["closed_list"] == 2 and scores["facts"]["truths_not_in_list"] == 0
    assert (scores["facts"]["hinted"], scores["facts"]["shortened"]) == (0, 0)
    assert {json.loads(line)["prediction"] for line in _predictions(small.folder)} <= {"yes", "no"}


def with_hint(run: Path, copy: Path) -> Path:
    """The run as one that learned with metadata."""
    shutil.copytree(run, copy)
    said = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(said | {"hint": "answer_type"}))
    return copy


def _predictions(folder):
    return next(folder.glob("eval/step_2/*/predictions.jsonl")).read_text().splitlines()


def test_the_page_of_a_run_says_protocol_and_lint(small, tmp_path):
    """All checks, where lint ran on the same data and settings before."""
    run, page = tmp_path / "run", tmp_path / "page.html"
    shutil.copytree(small.folder, run)
    again = ("lint", *small.arguments[1:-1], f"--workdir={run}")
    assert biomedgpt(*again).code == 0
    file = max(run.glob("eval/step_*/*/scores.json"), key=lambda path: int(path.parent.parent.name[5:]))
    scores = json.loads(file.read_text())
    scores["facts"] |= score_facts(run)
    file.write_text(json.dumps(scores))
    called = biomedgpt("report", f"--runs={run}", f"--out={page}")
    assert called.code == 0, called
    written = page.read_text()
    assert "strict/v1" in written and "(checks: all)" in written and "What lint found in the data" in written


def test_a_run_that_is_stopped_ends_as_one_that_is_not(small, tmp_path):
    shutil.copytree(small.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    again = biomedgpt(*small.arguments[:-1], f"--workdir={tmp_path / 'run'}", "--config.eval.paths=()")
    assert again.code == 0, again
    one, other = (_last_step(folder) for folder in (small.folder, tmp_path / "run"))
    for name in ("loss", "grad_norm", "param_norm", "update_norm", "accuracy"):
        assert one[name] == other[name], name


def _last_step(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row][-1]


def test_a_run_is_asked_by_scores_and_by_trie(small, prepared_data, raw_data, tmp_path):
    run = with_hint(small.folder, tmp_path / "run")
    asked = ("eval", config(f"eval.py:data={prepared_data}"), f"--model={run}", "--config.max_new_tokens=2")
    called = biomedgpt(*asked, f"--out={tmp_path / 'scored'}", "--config.pairs.method=candidates")
    assert called.code == 0, called
    facts = json.loads((tmp_path / "scored" / "scores.json").read_text())["facts"]
    assert (facts["hint"], facts["hinted"]) == ("answer_type", 2)
    rows = [json.loads(line) for line in (tmp_path / "scored" / "predictions.jsonl").read_text().splitlines()]
    assert {row["prediction"] for row in rows} <= {"yes", "no"} and len(rows) == 2
    for row in rows:  # its questions state their choices, and the likelier one was said
        assert max(row["class_scores"], key=row["class_scores"].get) == row["prediction"]
        assert sum(map(math.exp, row["class_scores"].values())) == pytest.approx(1, abs=1e-5)

    asked = [{"question": "Is it red?", "images": [name]} for name in ("4.png", "no.png")]
    shutil.copy(next(raw_data.rglob("4.png")), tmp_path)
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    answered = tmp_path / "answers.jsonl"
    generate = ("generate", f"--model={small.folder}", "--max_new_tokens=3", "--beams=4")  # more than answers
    called = biomedgpt(*generate, f"--questions={tmp_path / 'asked.jsonl'}", f"--out={answered}")
    assert_refused(called, 1, "1 of 2 questions", "no.png")
    rows = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [set(row) & {"answer", "error"} for row in rows] == [{"answer"}, {"error"}]
    assert rows[0]["answer"] in {"yes", "no"}


def test_instructed_it_answers_in_any_words(small, prepared_data, tmp_path):
    """Neither its closed list nor the limits of its training hold; the prompt is the instruction."""
    run = with_hint(small.folder, tmp_path / "run")
    asked = ("eval", config(f"eval.py:data={prepared_data},instruct=vqa-yes-no/json"), f"--model={run}")
    called = biomedgpt(*asked, "--config.max_new_tokens=2", "--config.pairs.hint=none", f"--out={tmp_path / 'o'}")
    assert called.code == 0 and "Alignment accuracy" in called.out, called
    scores = json.loads((tmp_path / "o" / "scores.json").read_text())
    assert (scores["facts"]["hint"], scores["facts"]["hinted"]) == ("none", 0)
    assert scores["facts"]["task"] == "instruction" and "closed_list" not in scores["facts"]["decoding"]
    assert scores["facts"]["instructions"] == ["vqa-yes-no/json"] and scores["alignment"][0]["n"] == 2
    refused = biomedgpt(*asked, "--config.pairs.method=candidates", f"--out={tmp_path / 'p'}")
    assert_refused(refused, 2, "config.instruct leaves the words of an answer open")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--config.model.image_size=40",), "expected a multiple of 16 up to 672"),
        (("--config.model.vocab_size=300",), "the model 300"),
        (("--config.data.source_tokens=2000",), "has 1024 text positions"),
        (("--config.data.source_buckets=(8,'a')",), "config.data.source_buckets = 'a': expected 1 or more"),
        (("--config.eval.min_length=40",), "min_length = 40 is more than max_new_tokens = 32"),
        (("--config.data.task=vqaa",), "Did you mean 'vqa'?"),
        (("--config.init.random=False",), "No weights for the model"),
        (("--config.data.answers=", "--config.eval.method=candidates"), "scores a closed list"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, said, prepared_data, tmp_path):
    called = biomedgpt(
        "train", config(f"smoke_biomedgpt.py:data={prepared_data}"), *SHORT, f"--workdir={tmp_path}", *options
    )
    assert_refused(called, 2, said)


@pytest.mark.parametrize(("task", "may_be_without"), [("classify", True), ("caption", False)])
def test_with_answers_of_one_word_the_order_of_words_may_learn_nothing(task, may_be_without, monkeypatch):
    """The first word decides, and sees itself alone: a list of two such answers once stopped its run."""
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    monkeypatch.syspath_prepend(str(ROOT / "configs"))
    found = command_line.parse(ledger, [config(f"biomedgpt.py:task={task},size=smoke")]).config
    unused = BIOMEDGPT.unused(found, BIOMEDGPT.spec(found))
    for path in ("layers/self_attention/q/kernel", "layers/text_bias", "positions/self_k/kernel"):
        assert unused(f"decoder/{path}") == may_be_without
    assert not unused("decoder/layers/self_attention/v/kernel") and not unused("decoder/positions/cross_q/kernel")


def test_a_run_of_another_family_is_no_place_to_resume(small, prepared_data):
    called = biomedgpt("train", config(f"smoke.py:stage=1,data={prepared_data}"), f"--workdir={small.folder}")
    assert_refused(called, 1, "expected a ModelSpec, found a BiomedGptSpec")


def test_it_is_served_and_talks_as_it_answers_a_file_of_questions(small, raw_data):
    # Trained with a hint, say: nobody here could tell it.
    reader = PairReader(load_pairs(small.folder, None, "float32", {"hint": "organ"}, ""), open=False)
    assistant = Assistant(reader, rows=3)
    shown, other = raw_data / "images" / "4.png", raw_data / "images" / "5.png"
    manner = Manner(GREEDY, 3, (0, 0))
    images = (ImageBytes(shown.read_bytes(), "4.png"),)
    requests = [
        Request(question, (Turn(question, ""),), pictures, manner)
        for question, pictures in (("Is it red?", images), ("Is it red?", ()), ("Is it a very large lung?", images))
    ]
    expected = [said.text for said in assistant.answer([assistant.prompt(request) for request in requests])]
    assert set(expected) <= {"yes", "no"}
    assert ["".join(aloud(assistant, request)) for request in requests[::2]] == expected[::2]

    with serving(assistant) as server:
        given = server.ask(picture(shown), text("Is it red?"), max_tokens=1)  # an answer of the list is given whole
        assert (given.choices[0].message.content, given.choices[0].finish_reason) == (expected[0], "stop")
        stream = server.ask(picture(shown), text("Is it red?"), stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected[0]
        for parts, system, words in (
            ((picture(shown), picture(other), text("a?")), (), "2 images, but this model reads one"),
            ((text("a?"),), ({"role": "system", "content": "a"},), "answers single questions"),
            (
                (text("a?"),),
                ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}),
                "single questions",
            ),
        ):
            messages = [*system, {"role": "user", "content": list(parts)}]
            with pytest.raises(openai.BadRequestError, match=words):
                server.client().chat.completions.create(model=NAME, messages=messages)

    talk = Conversation(assistant, manner)
    talk.show(other)
    talk.show(shown)
    assert ["".join(talk.ask(question)) for question in ("Is it red?", "Is it a very large lung?")] == expected[::2]


def test_prompts_are_not_padded_beyond_the_places_of_the_model():
    prompt = EncodedPair("long", np.zeros(1090, np.int32), np.zeros(3, np.int32), np.zeros(0, np.int32))
    assert prompt_shapes([prompt], 1100, 40) == [PairShape(1100, 32)]
    assert prompt_shapes([prompt], 2048, 40) == [PairShape(1152, 32)]
    # The decoder has room behind it.
    told = replace(prompt, given=np.zeros(1000, np.int32))
    assert prompt_shapes([told], 1100, 80) == [PairShape(1100, 1020)]
    assert prompt_shapes([told], 1100, 100) == [PairShape(1100, 1001)]
