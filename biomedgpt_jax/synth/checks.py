"""Whether a model's answer can be used: its schema, length, language, what it speaks of, and that it says nothing new.

A request's key has of the checks only what its prompt tells: language, turns and words. With other checks, answers that
are there are judged anew and cost nothing.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.data.lint.material import plain, words
from biomedgpt_jax.data.lint.privacy import PATTERNS
from biomedgpt_jax.data.rows import IMAGE_PLACE, spaces
from biomedgpt_jax.synth.asks import Form, Task
from biomedgpt_jax.synth.grounding import Terms, new_terms
from biomedgpt_jax.synth.languages import speak

# Code -> what the model is told when it is asked again.
FAULTS = {
    "refusal": "it was a refusal",
    "cut": "it was cut off; be shorter",
    "not-json": "it was not one JSON object",
    "schema": "its JSON had other fields than asked for",
    "turns": "it had too few or too many turns",
    "empty": "a text in it was empty",
    "repeated": "it asked a question twice",
    "length": "an answer was too short or too long",
    "language": "it was not in the language asked for",
    "source-named": "it spoke of a caption, a text, a figure or of what was provided",
    "new-terms": "it named what the given text does not say",
    "private": "it held a name, a date or a number of a record",
    "image-mark": "it held a mark that stands for an image",
    "skip": "the source says too little",  # the model's own word; it is not asked again
    "endpoint": "the endpoint would not take the request",
}
FINAL = ("skip",)
_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_SOURCE = re.compile(
    r"\b(?:the|this|its|a|image|figure) (?:caption|legend|accompanying text)\b|\bcaptions?\b"
    r"|\b(?:the|this) (?:given|provided|accompanying|source|above|original) "
    r"(?:text|description|information|context|passage|material|data|mention)s?\b"
    r"|\b(?:the )?(?:text|article|paper|passage|description|mention|context|information)s? "
    r"(?:says?|states?|mentions?|notes?|describes?|indicates?|reports?|provided|given)\b"
    r"|\b(?:according to|as (?:stated|described|mentioned|noted) (?:in|by)|based on) (?:the|this) "
    r"(?:text|article|paper|passage|description|mention|context|information|report|study)\b"
    r"|\b(?:mentioned|stated|described|given|provided) (?:above|in the (?:text|article|paper|description))\b"
    r"|\bfig(?:ure|\.)? ?\d|\b(?:not|n't) (?:mentioned|specified|stated|provided|given)\b|</?(?:caption|mention)>"
    r"|图注|标题|图题|说明文字|文中(?:提到|提及|所述|描述)|根据(?:文字|文本|描述|上文|提供)|所提供的(?:文字|信息|描述)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:'|no)t|cannot|won't)|sorry|as an ai|抱歉|很抱歉|对不起)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Fault:
    """Why an answer cannot be used; `found` are its words that show it, for the file of rejects alone."""

    code: str
    found: tuple[str, ...] = ()

    def told(self) -> str:
        """For the model, which wrote the words."""
        return FAULTS[self.code] + (f" ({', '.join(self.found)})" if self.code == "new-terms" else "")


Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Verdict:
    """The (question, answer) turns of an answer, which can be used where there are no faults."""

    turns: Turns
    faults: tuple[Fault, ...]


def judge(task: Task, text: str, stop: str, terms: Terms) -> Verdict:
    """All that is wrong with an answer. `stop`: "end", "length" or "refusal", as the endpoint said."""
    if stop == "refusal" or _REFUSAL.match(text):
        return Verdict((), (Fault("refusal"),))
    content = _json(text)
    if content is None:
        return Verdict((), (Fault("cut" if stop == "length" else "not-json"),))
    if isinstance(content.get("skip"), str) and len(content) == 1:
        return Verdict((), (Fault("skip", (spaces(content["skip"])[:80],)),))
    turns = _turns(task.prompt.kind, content)
    if turns is None:
        return Verdict((), (Fault("schema", tuple(sorted(map(str, content)))[:8]),))
    return Verdict(turns, tuple(_faults(task, turns, terms)))


def _json(text: str) -> dict[str, Any] | None:
    """The object from the first brace to the last; models like to put words, thoughts or a fence around it."""
    said = _THOUGHTS.sub("", text)
    try:
        content = json.loads(said[said.index("{") : said.rindex("}") + 1], strict=False)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _turns(kind: str, content: dict[str, Any]) -> Turns | None:
    """None where the fields are not those of the kind."""
    read = {"conversation": _conversation, "description": _description, "reasoning": _reasoning}
    turns = read[kind](content)
    if turns is None or not all(isinstance(text, str) for turn in turns for text in turn):
        return None
    return tuple((question.strip(), answer.strip()) for question, answer in turns)


def _conversation(content: dict[str, Any]) -> list[tuple[Any, Any]] | None:
    given = content.get("turns")
    if content.keys() != {"turns"} or not isinstance(given, list):
        return None
    if not all(isinstance(turn, dict) and turn.keys() == {"question", "answer"} for turn in given):
        return None
    return [(turn["question"], turn["answer"]) for turn in given]


def _description(content: dict[str, Any]) -> list[tuple[Any, Any]] | None:
    return [(content["question"], content["answer"])] if content.keys() == {"question", "answer"} else None


def _reasoning(content: dict[str, Any]) -> list[tuple[Any, Any]] | None:
    """The steps, then the answer in a paragraph of its own."""
    if content.keys() != {"question", "reasoning", "answer"}:
        return None
    steps, answer = content["reasoning"], content["answer"]
    if not isinstance(steps, str) or not isinstance(answer, str) or not steps.strip() or not answer.strip():
        return None
    return [(content["question"], f"{steps.strip()}\n\n{answer.strip()}")]


def _faults(task: Task, turns: Turns, terms: Terms) -> Iterator[Fault]:
    form = task.settings.form
    said = [text for turn in turns for text in turn]
    whole = "\n".join(said)
    least, most = form.turns
    if task.prompt.kind == "conversation" and not least <= len(turns) <= most:
        yield Fault("turns", (str(len(turns)),))
    if not all(plain(text) for text in said) or not turns:
        yield Fault("empty")
        return
    if len({plain(question) for question, _ in turns}) < len(turns):
        yield Fault("repeated")
    yield from _length(task.prompt.kind, turns, form)
    if not speak(form.language, said):
        yield Fault("language")
    if named := _SOURCE.findall(whole):
        yield Fault("source-named", tuple(dict.fromkeys(named))[:8])
    if new := new_terms(whole, task.source.text, terms):
        yield Fault("new-terms", tuple(new))
    if any(pattern.search(whole) for pattern in PATTERNS.values()):
        yield Fault("private")
    if IMAGE_PLACE in whole:
        yield Fault("image-mark")


def _length(kind: str, turns: Sequence[tuple[str, str]], form: Form) -> Iterator[Fault]:
    least, most = form.words[kind]
    sizes = [len(words(answer)) for _, answer in turns]
    if any(not least <= size <= most for size in sizes):
        yield Fault("length", tuple(map(str, sizes)))
