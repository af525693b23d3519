"""Whether an answer names something that its source does not: a comparison of terms, the same for all models.

A term is a concept of terms.txt (modality, anatomy, laterality, finding) or a number. A term of the answer is new when
neither the source nor a concept that the source names or implies has it. What this cannot see: concepts that are not
in the list, relations between terms ("the left mass" where left belongs to something else), negation ("no mass" where
the source says "a mass"), and what is said in other words. What it refuses without need: a true inference that the
list does not know, such as the organ of a finding.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from biomedgpt_jax.data.errors import DataError

TERMS = Path(__file__).parent / "terms.txt"
_WORD = re.compile(r"[a-z0-9&]+(?:\.\d+)?")
_CHINESE = re.compile(r"[\u3400-\u9fff]")
# T2, L5, 3.5, 12 of "12mm"; a full stop ends a sentence.
_NUMBER = re.compile(r"(?<![a-z0-9.])(?:[a-z]{1,3}\d+[a-z0-9]*|\d+(?:\.\d+)?)")
_LIST_MARK = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
# "one" is rarely a number.
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_NUMBERS, 2)}
_SHORT = 3  # letters of a word that has no plural


@dataclass(frozen=True)
class Terms:
    """`names`: words of a name -> its concept; `common`: those that count in sources alone; `chinese`: name -> concept;
    `implied`: concept -> those it implies.
    """

    names: dict[tuple[str, ...], str]
    common: frozenset[tuple[str, ...]]
    chinese: dict[str, str]
    implied: dict[str, frozenset[str]]

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.names), default=0)

    def found(self, text: str) -> dict[str, str]:
        """Concepts that a text names, with the words that name them; the longest name at each place counts."""
        said = _WORD.findall(_plain(text))
        words = [_singular(word) for word in said]
        found: dict[str, str] = {}
        place = 0
        while place < len(words):
            for size in range(min(self.longest, len(words) - place), 0, -1):
                name = tuple(words[place : place + size])
                if name in self.names and name not in self.common:
                    found.setdefault(self.names[name], " ".join(said[place : place + size]))
                    place += size - 1
                    break
            place += 1
        return found | {concept: name for name, concept in self.chinese.items() if name in text}

    def known(self, text: str) -> set[str]:
        """Concepts that a source names, in whatever part of a longer name, and what they imply."""
        words = list(_words(text))
        spans = (tuple(words[i : i + n]) for i in range(len(words)) for n in range(1, self.longest + 1))
        named = {self.names[span] for span in spans if span in self.names} | set(self.found(text))
        return named.union(*(self.implied.get(concept, frozenset()) for concept in named))


def new_terms(text: str, source: str, terms: Terms) -> list[str]:
    """The words in `text` that `source` does not cover, in alphabetical order."""
    known = terms.known(source)
    concepts = [name for concept, name in terms.found(text).items() if concept not in known]
    numbers = set(_numbers(text)) - set(_numbers(source))
    return sorted({*concepts, *numbers})


@cache
def read_terms(path: Path = TERMS) -> Terms:
    """Raises DataError for a line that implies an unknown concept, or a name that stands for two."""
    concepts: dict[str, str] = {}
    implied: dict[str, frozenset[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith(("#", "[")):
            continue
        called, _, implies = line.partition(">")
        first, *others = (name.strip() for name in called.split("|"))
        for name in (first, *others):
            if concepts.setdefault(name, first) != first:
                raise DataError(f"{path} line {number}: {name!r} already names {concepts[name]!r}")
        implied[first] = frozenset(name.strip() for name in implies.split(",") if name.strip())
    for concept, implies in implied.items():
        if unknown := implies - implied.keys():
            raise DataError(f"{path}: {concept!r} implies {sorted(unknown)}, which are no concepts")
    chinese = {name: concept for name, concept in concepts.items() if _CHINESE.search(name)}
    latin = {name: concept for name, concept in concepts.items() if name not in chinese}
    return Terms(
        names={tuple(_words(name)): concept for name, concept in latin.items()},
        common=frozenset(tuple(_words(name)) for name in latin if name.endswith("?")),
        chinese=chinese,
        implied=implied,
    )


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


def _words(text: str) -> Iterator[str]:
    for word in _WORD.findall(_plain(text)):
        yield _singular(word)


def _singular(word: str) -> str:
    """Folds the regular plurals; "mass", "disc" and "lens" stay."""
    if len(word) <= _SHORT or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith(("sses", "xes", "ches")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def _numbers(text: str) -> Iterator[str]:
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", _plain(_LIST_MARK.sub(" ", text)))
    yield from _NUMBER.findall(plain)
    yield from (_NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", plain) if word in _NUMBER_WORDS)
