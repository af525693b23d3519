"""The form that an instruction demands of an answer: whether a text obeys it, and the answer that stands in it.

Whether an answer is right is another question: `read_back` is lenient, `obeys` is strict.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from string import ascii_uppercase as LETTERS
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.lint.material import plain, words

YES_OR_NO = ("yes", "no")
_LETTER = re.compile(r"\W*([a-z])\W*", re.IGNORECASE)
# A letter that a mark or its own word sets apart from what follows: "B. liver", "(b) liver", "option B", not "a liver".
_LETTER_FIRST = re.compile(r"\W*(?:option |answer |answer: |choice )?\(?([a-z])(?:[.:)]|\s*$)", re.IGNORECASE)
_CHINESE = re.compile(r"[\u3400-\u9fff]")
# What Chinese radiologists write in Latin letters, besides numbers and units.
_LATIN_NAMES = {"ct", "mr", "mri", "x", "ray", "xray", "x光", "pet", "t1", "t2", "dwi", "flair", "cm", "mm"}
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")


class Kind(Enum):
    """What an answer must be."""

    TEXT = "any text"
    CLASS = "valid class"
    YES_NO = "yes or no"
    LETTER = "option letter"
    OPTION = "option text"


@dataclass(frozen=True)
class Form:
    """All of it must hold. 0 and "" demand nothing.

    `options` are the answers that CLASS, LETTER and OPTION choose from; `words` and `sentences` the most there may be;
    `language` "en" or "zh"; `json` the one key of a JSON object whose value is the answer.
    """

    kind: Kind
    options: tuple[str, ...] = ()
    words: int = 0
    sentences: int = 0
    language: str = ""
    json: str = ""

    @property
    def type(self) -> str:
        """Under which it is counted: the rarest demand that it makes."""
        if self.json:
            return "JSON"
        if self.kind is not Kind.TEXT:
            return self.kind.value
        if self.words or self.sentences:
            return "length"
        return "language" if self.language else self.kind.value

    def to_json(self) -> dict[str, Any]:
        said = {"options": list(self.options), "words": self.words, "sentences": self.sentences,
                "language": self.language, "json": self.json}  # fmt: skip
        return {"kind": self.kind.value, **{name: value for name, value in said.items() if value}}


def form_of(stored: Any, where: str) -> Form:
    """What `to_json` wrote. DataError says `where` it is damaged."""
    try:
        kind, options = Kind(stored["kind"]), tuple(map(str, stored.get("options", ())))
        others = {name: stored[name] for name in ("words", "sentences", "language", "json") if name in stored}
        return Form(kind, options, **others)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: meta.form is no form of an answer ({error!r}); mix or prepare the data again"
        ) from error


def obeys(form: Form, said: str) -> bool:
    """Whether a text has the form, letter case aside, whatever its answer is worth."""
    if form.json:
        found = _parsed(said.strip())
        if found is None or list(map(str.lower, found)) != [form.json.lower()]:
            return False
        (value,) = found.values()
        if not isinstance(value, str):
            return False
        said = value
    if not words(said):
        return False
    if form.words and len(words(said)) > form.words:
        return False
    if form.sentences and sentences(said) > form.sentences:
        return False
    return _in_language(form.language, said) and _of_kind(form, said)


def read_back(form: Form, said: str) -> str:
    """The answer inside a text, for scoring. In this order:

    1. Where JSON was asked and the text holds an object (also inside other words) with the key, the value of the key.
    2. Where a letter was asked and the text begins with one of the letters, set apart by a mark or alone, its option.

    Anything else is the answer as it stands.
    """
    if form.json:
        found = _parsed(said[said.find("{") : said.rfind("}") + 1]) or {}
        value = next((value for key, value in found.items() if key.lower() == form.json.lower()), None)
        said = value if isinstance(value, str) else said if value is None else json.dumps(value, ensure_ascii=False)
    if form.kind is Kind.LETTER and (match := _LETTER_FIRST.match(said)):
        place = LETTERS.find(match[1].upper())
        return form.options[place] if 0 <= place < len(form.options) else said
    return said.strip()


def put(form: Form, answer: str) -> str | None:
    """The answer in this form, None where it cannot be: too long, or none of the options."""
    said = answer.strip()
    if form.kind is Kind.LETTER:
        place = next((n for n, option in enumerate(form.options) if plain(option) == plain(said)), -1)
        said = LETTERS[place] if 0 <= place < len(LETTERS) else ""
    if form.json:
        said = json.dumps({form.json: said}, ensure_ascii=False)
    return said if obeys(form, said) else None


def sentences(text: str) -> int:
    """Ends of sentences, and what stands after the last."""
    ends = list(_SENTENCE_END.finditer(text))
    return len(ends) + bool(words(text[ends[-1].end() if ends else 0 :]))


def is_chinese(text: str) -> bool:
    return bool(_CHINESE.search(text))


def _of_kind(form: Form, said: str) -> bool:
    if form.kind is Kind.TEXT:
        return True
    if form.kind is Kind.LETTER:
        match = _LETTER.fullmatch(said)
        return match is not None and match[1].upper() in LETTERS[: len(form.options)]
    options = YES_OR_NO if form.kind is Kind.YES_NO else form.options
    return plain(said) in map(plain, options)


def _in_language(language: str, said: str) -> bool:
    if language == "en":
        return not is_chinese(said)
    if language == "zh":
        return is_chinese(said) or all(word in _LATIN_NAMES or word.isdigit() for word in words(said))
    return True


def _parsed(text: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
