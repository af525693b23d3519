"""In which language a text is, as far as two can be told apart from all others by simple means."""

import re
from collections.abc import Sequence

from biomedgpt_jax.data.lint.material import words

_CHINESE = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[a-zA-Z]")
_LETTER = re.compile(r"[^\W\d_]")
# Among the most frequent words of English; those of other languages that are spelt so are left out.
_FREQUENT = """
the of and is are was were be been it its this that these those what which where how why who when there
with from by for as at to has have had does do did can could would not or shows show seen image you
"""
_ENGLISH = frozenset(_FREQUENT.split())
FEW = 6  # words of a text too short to tell
LANGUAGES = ("English", "Chinese")


def speak(language: str, texts: Sequence[str]) -> bool:
    """English: in each text nearly all letters are Latin, and of one of some words a tenth are among the most frequent.
    Chinese: half of the letters of all texts; terms and units stay in Latin ones, and may be an answer.
    """
    if language == "Chinese":
        whole = "".join(texts)
        return len(_CHINESE.findall(whole)) >= 0.5 * max(1, len(_LETTER.findall(whole)))
    return all(map(_english, texts))


def _english(text: str) -> bool:
    said = words(text)
    frequent = sum(word in _ENGLISH for word in said)
    latin = len(_LATIN.findall(text)) >= 0.9 * len(_LETTER.findall(text))
    return latin and (len(said) < FEW or frequent >= 0.1 * len(said))
