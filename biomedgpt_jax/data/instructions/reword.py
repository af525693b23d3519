"""A sample of any task asked in one of the wordings of its task, with its answer in the form that this demands."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.instructions.caption import CAPTION, REPORT
from biomedgpt_jax.data.instructions.chinese import CHINESE
from biomedgpt_jax.data.instructions.classification import CLASSIFICATION
from biomedgpt_jax.data.instructions.form import LETTERS, YES_OR_NO, Kind, is_chinese, put
from biomedgpt_jax.data.instructions.nli import NLI
from biomedgpt_jax.data.instructions.question import EXAMINATION, QUESTION
from biomedgpt_jax.data.instructions.reading import OUTCOME, READING
from biomedgpt_jax.data.instructions.summary import SUMMARY
from biomedgpt_jax.data.instructions.trial import TRIAL
from biomedgpt_jax.data.instructions.variant import COUNT, Instructions
from biomedgpt_jax.data.instructions.vqa import CHOICE, OPEN, YES_NO
from biomedgpt_jax.data.lint.material import plain
from biomedgpt_jax.data.rows import IMAGE_PLACE
from biomedgpt_jax.data.sets.wording import stem
from biomedgpt_jax.data.source import PreparedSplit, Sample, Turn

ALL = (CLASSIFICATION, OPEN, YES_NO, CHOICE, CHINESE, CAPTION, REPORT, NLI, TRIAL, OUTCOME, READING, EXAMINATION,
       QUESTION, SUMMARY)  # fmt: skip
CHEST_X_RAY = "chest X-ray"  # of meta.modality, by which a caption is a report
ANY, HELD_OUT = "any", "held-out"
Choose = Callable[[Sample, Instructions], int]  # the number of a wording


def instructions_for(sample: Sample) -> Instructions | None:
    """The wordings of a sample's task; None for conversations and instructions, which are asked as they stand.

    A closed question about an image without stated choices counts as one of yes or no where its true answer is that.
    """
    task, choices = sample.meta.get("task"), _choices(sample)
    if len(sample.turns) != 1 or task in (None, "instruction"):
        return None
    if task in _BY_TASK:
        return _BY_TASK[task]
    if task == "caption":
        return REPORT if sample.meta.get("modality") == CHEST_X_RAY else CAPTION
    yes_no = set(map(plain, choices)) == set(YES_OR_NO)
    if not sample.images:
        if sample.meta.get("context") is not None and choices:
            return OUTCOME if yes_no else READING
        return EXAMINATION if choices else QUESTION
    if is_chinese(sample.turns[0].question):
        return CHINESE
    if choices and not (yes_no and task == "vqa"):
        return CHOICE if task == "vqa" else CLASSIFICATION
    closed = sample.meta.get("answer_type") == "closed" and plain(sample.turns[0].answer) in YES_OR_NO
    return YES_NO if yes_no or closed else OPEN


def reword(sample: Sample, instructions: Instructions, number: int) -> Sample:
    """The sample in wording `number` (from 1). Its `meta` says the form, the instruction, and the question as it was.

    The answer stays as it is where it cannot be put in the form. Raises DataError where the sample lacks what its task
    needs, or has more options than letters.
    """
    variant, turn, choices = instructions.variants[number - 1], sample.turns[0], _choices(sample)
    form = variant.form if variant.form.kind in (Kind.TEXT, Kind.YES_NO) else replace(variant.form, options=choices)
    asked = variant.text.format(**{name: _FILL[name](sample) for name in sorted(variant.places)})
    meta = {**sample.meta, "form": form.to_json(), "instruction": instructions.name(number),
            "plain_question": turn.question}  # fmt: skip
    return replace(sample, turns=(Turn(asked, put(form, turn.answer) or turn.answer),), meta=meta)


def fitting(sample: Sample, instructions: Instructions, numbers: Sequence[int]) -> list[int]:
    """Those of the wordings whose form the true answer can take."""
    choices, answer = _choices(sample), sample.turns[0].answer
    forms = {number: instructions.variants[number - 1].form for number in numbers}
    return [
        number
        for number, form in forms.items()
        if (form.kind is not Kind.LETTER or len(choices) <= len(LETTERS))
        and put(form if form.kind in (Kind.TEXT, Kind.YES_NO) else replace(form, options=choices), answer) is not None
    ]


def pick(seed: int, id: str, numbers: Sequence[int]) -> int:
    """One of the numbers, by seed and sample id alone."""
    digest = hashlib.sha256(f"{seed}\0{id}".encode()).digest()
    return numbers[int.from_bytes(digest[:8], "big") % len(numbers)]


def chooser(named: str, seed: int) -> Choose:
    """How `named` chooses: a number, a wording by its name (task/name), `any` or `held-out` (by seed and sample id).

    Raises ValueError for a name that is none.
    """
    if named == ANY:
        return lambda sample, instructions: pick(seed, sample.id, instructions.trained)
    if named == HELD_OUT:
        return lambda sample, instructions: pick(seed, sample.id, instructions.held_out)
    if named in map(str, range(1, COUNT + 1)):
        return lambda sample, instructions: int(named)
    names = {each.name(number): (each, number) for each in ALL for number in range(1, COUNT + 1)}
    if named not in names:
        raise ValueError(f"expected a number from 1 to {COUNT}, {ANY}, {HELD_OUT}, or one of {', '.join(names)}")
    wanted, number = names[named]

    def choose(sample: Sample, instructions: Instructions) -> int:
        if instructions is not wanted:
            raise DataError(
                f"sample {sample.id}: the instruction {named} is not of its task, which is {instructions.task}; name a "
                f"number from 1 to {COUNT}, {ANY} or {HELD_OUT}, which every task has"
            )
        return number

    return choose


class InstructedSplit(PreparedSplit):
    """A prepared split whose samples are read in other words."""

    def __init__(self, directory: str | Path, split: str, choose: Choose):
        super().__init__(directory, split)
        self._choose = choose

    def _parse(self, index: int, record: bytes) -> Sample:
        sample = super()._parse(index, record)
        instructions = instructions_for(sample)
        return sample if instructions is None else reword(sample, instructions, self._choose(sample, instructions))


_BY_TASK: Mapping[str, Instructions] = {"nli": NLI, "trial": TRIAL, "summary": SUMMARY}


@dataclass(frozen=True)
class _Field:
    """A text of `meta`, at a place of it where that is a list of two."""

    name: str
    place: int | None = None

    def __call__(self, sample: Sample) -> str:
        found = sample.meta.get(self.name)
        if self.place is not None:
            found = found[self.place] if isinstance(found, list) and len(found) == 2 else None
        if not isinstance(found, str) or not found.strip():
            raise DataError(
                f"sample {sample.id}: its task {sample.meta.get('task')!r} needs a text in meta.{self.name}"
                f"{'' if self.place is None else ', a list of two'}, found {type(found).__name__}. Prepare the data "
                "so, or give its samples another task"
            )
        return found.strip()


def _question(sample: Sample) -> str:
    stated = sample.meta.get("question")
    if isinstance(stated, str) and not sample.images:
        return stated.strip()
    asked = sample.turns[0].question
    if len(sample.images) < 2:  # else a question may point to each of them
        asked = asked.replace(IMAGE_PLACE, " ")
    question = stem(asked.strip(), _choices(sample))
    if not question:
        raise DataError(f"sample {sample.id}: its task {sample.meta.get('task')!r} needs a question, found none")
    return question


def _document(sample: Sample) -> str:
    return str(sample.meta.get("document") or sample.turns[0].question).strip()


def _options(sample: Sample) -> str:
    return "; ".join(_needed_choices(sample))


def _lettered(sample: Sample) -> str:
    choices = _needed_choices(sample)
    if len(choices) > len(LETTERS):
        raise DataError(f"sample {sample.id}: {len(choices)} options, but letters for {len(LETTERS)}")
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _needed_choices(sample: Sample) -> tuple[str, ...]:
    choices = _choices(sample)
    if not choices:
        raise DataError(
            f"sample {sample.id}: its task {sample.meta.get('task')!r} needs a list of texts in meta.choices, found "
            f"{type(sample.meta.get('choices')).__name__}"
        )
    return choices


def _choices(sample: Sample) -> tuple[str, ...]:
    given = sample.meta.get("choices")
    return tuple(map(str, given)) if isinstance(given, list) else ()


_FILL: Mapping[str, Callable[[Sample], str]] = {
    "question": _question,
    "options": _options,
    "lettered": _lettered,
    "document": _document,
    "context": _Field("context"),
    "first": _Field("texts", 0),
    "second": _Field("texts", 1),
}
