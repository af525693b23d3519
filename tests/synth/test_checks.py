"""What an answer may be, what a source is, and how requests are told apart. Nothing is asked."""

import json
from dataclasses import replace

import pytest

from biomedgpt_jax.data.layouts import llava_files, own_dataset
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.synth.asks import Form, Protocol, Settings, Task
from biomedgpt_jax.synth.checks import judge
from biomedgpt_jax.synth.grounding import read_terms
from biomedgpt_jax.synth.material import Left, Source, sources
from biomedgpt_jax.synth.prompts import read_prompt
from tests.synth.captions import prepare_captions

CAPTION = "Axial CT of the liver with a hypodense mass of 3 cm in the left lobe."
GOOD = "This axial CT of the liver has a hypodense mass of 3 cm in the left lobe."


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> PreparedSplit:
    return PreparedSplit(prepare_captions(tmp_path_factory.mktemp("captions"), rows=1), "train")


@pytest.fixture(scope="module")
def task(split):
    def make(kind: str, language: str = "English") -> Task:
        words = {"conversation": (1, 20), "description": (5, 26), "reasoning": (5, 40)}
        settings = Settings(Protocol.OPENAI, "m", 100, "max_tokens", {}, False, Form(language, (2, 3), words))
        return Task(Source(split, split[0], CAPTION, (), 0), read_prompt(f"{kind}_v1"), settings)

    return make


@pytest.fixture(scope="module")
def codes(task):
    def found(kind: str, text: str, stop: str = "end", language: str = "English") -> list[str]:
        return [fault.code for fault in judge(task(kind, language), text, stop, read_terms()).faults]

    return found


def description(answer: str, question: str = "What is it?") -> str:
    return json.dumps({"question": question, "answer": answer}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (description(GOOD), []),
        (f"```json\n{description(GOOD)}\n```", []),
        (description(f"The caption says: {GOOD}"), ["source-named"]),
        (description("According to the text, this is a CT of the liver with a mass."), ["source-named"]),
        (description("It is a CT of the liver. The size is not mentioned here."), ["source-named"]),
        (description(f"{GOOD} There is no ascites."), ["new-terms"]),
        (description("A mass."), ["length"]),
        (description(f"{GOOD} {GOOD}"), ["length"]),
        (description("Esta tomografía del hígado tiene una masa grande y muy oscura."), ["language"]),
        (description(f"{GOOD} Dr. Winter took it."), ["private"]),
        (description(f"<image> {GOOD}"), ["image-mark"]),
        (description(GOOD, question=" "), ["empty"]),
        (json.dumps({"question": "What?", "answer": GOOD, "note": "x"}), ["schema"]),
        (json.dumps({"question": "What?", "answer": 7}), ["schema"]),
        (json.dumps([1]), ["not-json"]),
        (f"<think>A {{ brace</think>Here it is: {description(GOOD)} I hope it helps.", []),
        (description(GOOD).replace("What is it?", "What\nis it?"), []),
        ("Here you are: {", ["not-json"]),
        ("I'm sorry, but I can't help with that.", ["refusal"]),
        ('{"skip": "too little"}', ["skip"]),
    ],
)
def test_a_description_is_judged(codes, text, found):
    assert codes("description", text) == found


def test_how_the_endpoint_ended_an_answer_counts(codes):
    assert codes("description", description(GOOD)[:30], stop="length") == ["cut"]
    assert codes("description", description(GOOD), stop="refusal") == ["refusal"]


def test_conversations_have_turns_that_differ(codes):
    turns = [{"question": "What is it?", "answer": "A CT."}, {"question": "Which organ?", "answer": "It is the liver."}]
    assert codes("conversation", json.dumps({"turns": turns})) == []
    assert codes("conversation", json.dumps({"turns": turns[:1]})) == ["turns"]
    assert codes("conversation", json.dumps({"turns": [turns[0], {**turns[1], "question": "what is it"}]})) == [
        "repeated"
    ]
    assert codes("conversation", json.dumps({"turns": []})) == ["turns", "empty"]
    assert codes("conversation", json.dumps({"turns": [{"question": "What?"}]})) == ["schema"]


def test_reasoning_keeps_its_steps_before_its_answer(task, codes):
    said = {"question": "What is it?", "reasoning": "The mass is hypodense.", "answer": "It is a mass of the liver."}
    verdict = judge(task("reasoning"), json.dumps(said), "end", read_terms())
    assert verdict.turns == (("What is it?", "The mass is hypodense.\n\nIt is a mass of the liver."),)
    assert codes("reasoning", json.dumps({**said, "reasoning": " "})) == ["schema"]


def test_chinese_is_asked_for_and_compared_with_an_english_source(codes):
    said = description("这是肝脏的轴位CT,左侧有低密度肿块。", "图像显示什么?")
    assert codes("description", said, language="Chinese") == []
    assert codes("description", said) == ["language"]
    assert codes("description", said.replace("肝脏", "肺部"), language="Chinese") == ["new-terms"]
    assert codes("description", said.replace("这是", "图注说这是"), language="Chinese") == ["source-named"]


def test_where_the_caption_is_found(split, tmp_path):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": " A\tcaption "}]
    rows = [
        {"id": "answer", "task": "caption", "mentions": ["one", "one", " ", "two"]},
        {"id": "field", "caption": "B", "in_text_mention": "three"},
        {"id": "neither", "task": "vqa"},
        {"id": "no image", "caption": "B", "image": None},
        {"id": "strange", "caption": "B", "mentions": 3},
        {"id": "long", "caption": "B", "mentions": ["x" * 11_000, "y" * 11_000, "z"]},
    ]
    (tmp_path / "0.png").write_bytes(split.image(0))
    given = [json.dumps({"image": "0.png", "conversations": turns, **row}) for row in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(given))
    prepare_dataset(own_dataset("t", llava_files({"train": "train.jsonl"})), tmp_path / "out", source_dir=tmp_path)
    several = PreparedSplit(tmp_path / "out", "train")
    found = list(sources(several, 0, 0, ""))
    told = [each.reason if isinstance(each, Left) else (each.caption, each.mentions) for each in found]
    assert told[:2] == [("A caption", ("one", "two")), ("B", ("three",))]
    assert told[2:4] == ["no caption", "no image"] and "mentions is neither" in told[4]
    assert isinstance(found[5], Source) and found[5].mentions_left == 1 and found[5].mentions[1] == "z"
    drawn = [each.id for each in sources(several, 3, 1, "")]
    assert len(drawn) == 3 and drawn == [row["id"] for row in rows if row["id"] in drawn]
    assert [each.id for each in sources(several, 3, 1, "")] == drawn
    assert {each.reason for each in sources(several, 0, 0, "legend") if isinstance(each, Left)} == {
        "no caption",
        "no image",
    }


def test_keys_change_with_all_that_is_asked(task):
    plain = task("description")
    others = [
        task("reasoning"),
        task("description", "Chinese"),
        replace(plain, source=replace(plain.source, caption="another")),
        replace(plain, settings=replace(plain.settings, model="n")),
        replace(plain, settings=replace(plain.settings, extra={"temperature": 0.5})),
    ]
    keys = [each.key for each in (plain, *others)]
    assert len(set(keys)) == len(keys)
    assert task("description").key == plain.key
    assert plain.ask(1, ()).key != plain.ask(2, ("it was cut",)).key
    assert "it was cut" in plain.ask(2, ("it was cut",)).messages[-1][1]
