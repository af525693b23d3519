"""How rows of several data sets put their questions, and what their `meta` says of closed ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.rows import ImageRef, Row, make_row

CAPTION_QUESTION = "What does the image describe?"
LETTERS = "ABCDEFGHIJ"


def choose(question: str, choices: Sequence[str]) -> str:
    """A question with its possible answers, which may hold commas."""
    return f"{question} Choose one: {'; '.join(choices)}."


def lettered(question: str, options: Mapping[str, str]) -> str:
    """A question of an examination with its options, one per line."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])


def stem(question: str, choices: Sequence[str]) -> str:
    """A question without the options that `choose` or `lettered` added to it."""
    question = question.removesuffix(f" Choose one: {'; '.join(choices)}.") if choices else question
    listed = {f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False)}
    return "\n".join(line for line in question.splitlines() if line.strip() not in listed).strip()


def closed(task: str, choices: Sequence[str], **facts: Any) -> dict[str, Any]:
    """The `meta` of a question whose answer is one of `choices`; facts that are None or empty are left out."""
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    return {"task": task, "answer_type": "closed", "choices": list(choices), **known}


def free(task: str, **facts: Any) -> dict[str, Any]:
    """The `meta` of a question whose answer is text."""
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    return {"task": task, "answer_type": "open", **known}


def summary_row(file: str, row: int, id: str, document: str, summary: str, what: str, **facts: Any) -> Row:
    """A document and its summary; `what` names the document in the question."""
    if not document:
        raise DataError("the text to summarise is empty")
    turns = [(f"Summarise {what}:\n{document}", summary)]
    return make_row(file, row, id=id, images=[], turns=turns, meta=free("summary", document=document, **facts))


def caption_row(file: str, row: int, id: str, image: ImageRef, caption: str, **facts: Any) -> Row:
    """An image and its text."""
    turns = [(CAPTION_QUESTION, caption)]
    return make_row(file, row, id=id, images=[image], turns=turns, meta=free("caption", **facts))
