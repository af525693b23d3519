"""Samples of every task in all wordings: what is asked, what is the answer, and what is refused."""

import re

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.instructions.form import Form, Kind, form_of, obeys, read_back
from biomedgpt_jax.data.instructions.reword import ALL, chooser, fitting, instructions_for, pick, reword
from biomedgpt_jax.data.instructions.variant import Instructions, Variant
from biomedgpt_jax.data.sets.wording import choose, closed, free, lettered
from biomedgpt_jax.data.source import Sample, Turn

OPTIONS = ("edema, mild", "none", "mass")
LETTERED = lettered("What is seen?", dict(zip("ABC", OPTIONS, strict=True)))


def sample(question: str, answer: str, meta: dict, images: tuple[int, ...] = ()) -> Sample:
    return Sample("s1", images, (Turn(question, answer),), meta)


SAMPLES = {
    "classification": sample(choose("What is seen?", OPTIONS), "none", closed("organ", OPTIONS), (0,)),
    "vqa-open": sample("<image>\nWhere is it?", "left", free("vqa"), (0,)),
    "vqa-yes-no": sample("Is it red?", "Yes", {"task": "vqa", "answer_type": "closed"}, (0,)),
    "vqa-choice": sample(LETTERED, "mass", closed("vqa", OPTIONS), (0,)),
    "vqa-chinese": sample("这是什么?", "肝脏", {"task": "vqa", "answer_type": "open"}, (0,)),
    "caption": sample("What does the image describe?", "A liver.", free("caption"), (0,)),
    "report": sample("What does the image describe?", "Clear.", free("caption", modality="chest X-ray"), (0,)),
    "nli": sample("Text 1: ...", "yes", closed("nli", ("yes", "no", "maybe"), texts=["He ran.", "He moved."])),
    "trial": sample("Patient: ...", "eligible", closed("trial", ("eligible", "excluded"), texts=["A man.", "Men."])),
    "reading-yes-no": sample(
        "Ill. Does he die? Answer yes or no.", "no", closed("question", ("no", "yes"), question="Does he die?",
                                                            context="Ill.")),
    "reading-choice": sample("Old. Treated?", "maybe", closed("question", ("yes", "no", "maybe"),
                                                              question="Treated?", context="Old.")),
    "examination": sample(LETTERED, "edema, mild", closed("question", OPTIONS)),
    "question": sample("What is gout?", "A joint disease.", free("question")),
    "summary": sample("Summarise this:\nLong text.", "Text.", free("summary", document="Long text.")),
}  # fmt: skip


def test_every_task_has_its_samples_here():
    assert set(SAMPLES) == {each.task for each in ALL} and len(ALL) == len(SAMPLES)


@pytest.mark.parametrize("task", SAMPLES)
def test_all_wordings_of_a_task(task):
    """The answer in its form obeys it and reads back as the answer; the parts of the sample stand in the prompt."""
    plain = SAMPLES[task]
    instructions = instructions_for(plain)
    assert instructions is not None and instructions.task == task
    types = set()
    for number in (*instructions.trained, *instructions.held_out):
        made = reword(plain, instructions, number)
        form, (turn,) = form_of(made.meta["form"], ""), made.turns
        assert obeys(form, turn.answer) and read_back(form, turn.answer) == plain.turns[0].answer
        assert made.meta["instruction"] == instructions.name(number)
        assert made.meta["plain_question"] == plain.turns[0].question and made.images == plain.images
        assert not re.search(r"<image>|Choose one:|{question}|{options}", turn.question)
        for field in ("document", "context"):
            assert str(plain.meta.get(field, "")) in turn.question
        for text in plain.meta.get("texts", ()):
            assert text in turn.question
        if form.options and form.kind is not Kind.LETTER:
            assert all(option in turn.question for option in form.options)
        types.add(form.type)
    assert len(types) >= 2  # a form that is not the usual one
    assert fitting(plain, instructions, instructions.trained) == list(instructions.trained)


def test_lettered_questions_name_each_option_once():
    made = reword(SAMPLES["vqa-choice"], instructions_for(SAMPLES["vqa-choice"]), 1)
    assert made.turns == (Turn("What is seen?\nA. edema, mild\nB. none\nC. mass\nAnswer with the letter alone.", "C"),)


def test_the_choices_yes_and_no_are_a_question_of_yes_or_no():
    stated = sample("Is it red?", "no", closed("vqa", ("no", "yes")), (0,))
    assert instructions_for(stated) is instructions_for(SAMPLES["vqa-yes-no"])


def test_conversations_stay_as_they_are():
    turns = (Turn("a", "b"), Turn("c", "d"))
    for meta, talk in (({}, turns[:1]), ({"task": "instruction"}, turns[:1]), ({"task": "vqa"}, turns)):
        assert instructions_for(Sample("s", (0,), talk, meta)) is None


def test_the_choice_depends_on_seed_and_id_alone_and_reaches_all():
    numbers = [pick(0, f"s{n}", range(1, 7)) for n in range(200)]
    assert set(numbers) == set(range(1, 7)) and numbers == [pick(0, f"s{n}", range(1, 7)) for n in range(200)]
    assert numbers != [pick(1, f"s{n}", range(1, 7)) for n in range(200)]
    vqa = SAMPLES["vqa-open"]
    held = {chooser("held-out", 0)(Sample(f"s{n}", (0,), vqa.turns, vqa.meta), ALL[1]) for n in range(20)}
    assert held == {7, 8}
    assert chooser("vqa-open/json", 0)(vqa, ALL[1]) == 5 and chooser("3", 0)(vqa, ALL[1]) == 3
    with pytest.raises(DataError, match="sample s1: the instruction nli/json is not of its task, which is vqa-open"):
        chooser("nli/json", 0)(vqa, ALL[1])
    with pytest.raises(ValueError, match="expected a number from 1 to 8, any, held-out, or one of classification/"):
        chooser("9", 0)


def test_long_answers_take_no_short_form():
    long = sample("Where?", "in the left lower lobe of the lung", free("vqa"), (0,))
    assert fitting(long, ALL[1], range(1, 9)) == [2, 3, 4, 5, 6, 7, 8]
    absent = sample(LETTERED, "fracture", closed("question", OPTIONS))
    assert fitting(absent, instructions_for(absent), range(1, 9)) == []


@pytest.mark.parametrize(
    "meta, text",
    [
        ({"task": "nli", "choices": ["a", "b"]}, "needs a text in meta.texts, a list of two, found NoneType"),
        ({"task": "nli", "choices": ["a"], "texts": ["only one"]}, "needs a text in meta.texts"),
        ({"task": "trial", "texts": ["a", "b"]}, "task 'trial' needs a list of texts in meta.choices, found NoneType"),
    ],
)
def test_a_sample_without_its_tasks_fields(meta, text):
    broken = sample("Q", "a", meta)
    with pytest.raises(DataError, match=re.escape(text)):
        reword(broken, instructions_for(broken), 1)


@pytest.mark.parametrize(
    "text, form, message",
    [
        ("{question} {colour}", Form(Kind.TEXT), "no sample of the task has colour"),
        ("What?", Form(Kind.TEXT), "does not name question"),
        ("{question}", Form(Kind.CLASS), "asks for one of the options and does not tell them"),
        ("{question} {options}", Form(Kind.LETTER), "asks for a letter and shows none"),
    ],
)
def test_wordings_are_checked(text, form, message):
    good = tuple(Variant(str(n), "{question}", Form(Kind.TEXT)) for n in range(7))
    given = frozenset({"options", "lettered"})
    with pytest.raises(ValueError, match=message):
        Instructions("t", frozenset({"question"}), given, (*good, Variant("x", text, form)))
    with pytest.raises(ValueError, match="expected 8 wordings of distinct names"):
        Instructions("t", frozenset({"question"}), given, good)
