"""Pure text scores: normalisation, yes/no, stated choices, token overlap, intervals, majority answers.

Nothing here knows a model or a data set, and nothing draws an unseeded random number.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_WORD = re.compile(
    r"(?<!\w)-?\d+(?:\.\d+)?[^\W_]*"  # 5, -5, 2.5, 2.5cm, 3d
    r"|[^\W_]+(?:[+-](?!\w))?"  # words; her2+ and her2- keep their sign
    r"|[%<>+]"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BOTH = re.compile(r"(yes|no) (?:and|or) (?!\1)(?:yes|no)\b|(yes|no) (?!\2)(?:yes|no)$")
_OR = re.compile(r"\s(?:or|vs\.?|versus)\s", re.IGNORECASE)
_ASKING = ("what", "which", "who", "where", "how")


def words(text: str) -> tuple[str, ...]:
    """The words of a text that are compared. In this order:

    1. Unicode NFKC, case folded; apostrophes are deleted ("patient's" -> "patients").
    2. Commas inside a number go ("10,000" -> "10000"); decimal points and a leading minus stay ("2.5", "-5").
    3. Every other mark separates words ("X-ray" -> "x ray", "right/left" -> "right left"), except `%`, `<`,
       `>` and `+`, which are words, and a `+` or `-` that ends a word ("HER2-"), which stays with it.
    4. "zero" to "ten" become digits.
    5. "the" and "an" are dropped, and "a" where a word follows ("hepatitis A" keeps its letter). An article
       stays where nothing else was said.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _THOUSANDS.sub("", re.sub("['\u2018\u2019]", "", text))
    found: list[str] = _WORD.findall(text)
    found = [str(_NUMBERS.index(word)) if word in _NUMBERS else word for word in found]
    last = len(found) - 1
    kept = [w for n, w in enumerate(found) if w not in ("the", "an") and not (w == "a" and n < last)]
    return tuple(kept or found)


def normalise(text: str) -> str:
    """`words` joined by single spaces."""
    return " ".join(words(text))


def yes_no(text: str) -> str | None:
    """What the text answers: "yes", "no", or None where it says neither or both.

    Whole words only: "normal" and "unknown" hold no "no". A leading yes or no decides ("Yes, no effusion" is
    yes) unless the other follows at once ("yes or no", "yes/no"); otherwise the one that occurs alone.
    """
    said = words(text)
    if not said or _BOTH.match(" ".join(said)):
        return None
    if said[0] in ("yes", "no"):
        return said[0]
    occurring = {"yes", "no"}.intersection(said)
    return occurring.pop() if len(occurring) == 1 else None


def stated_choices(question: str) -> tuple[str, ...]:
    """The choices that a question itself names, one word each; () where it names none clearly.

    "CT or MRI?" and "on the left, right, or both sides?" state their choices next to "or" ("vs", "versus")
    and next to the commas of the same list. A choice is the last word before the separator, or the first
    after it: "gray or white matter" -> ("gray", "white"). "What is denser, the lesion or the brain?": a part
    that begins with what, which, who, where or how asks and is no choice. Where one of these words also
    stands on another side ("contrast CT or non-contrast CT") it tells nothing apart, and () is returned.
    """
    sides = _OR.split(question.rstrip(" ?."))
    if len(sides) != 2:
        return ()
    listed = [words(part) for part in sides[0].rstrip(" ,").split(",")]
    if len(listed) > 1 and listed[0] and listed[0][0] in _ASKING:
        del listed[0]
    after = words(sides[1])
    parts = [part for part in [*listed, after] if part]
    if len(parts) < 2 or not after or any(len(part) > 2 for part in parts[1:-1]):
        return ()
    named = (*(part[-1] for part in parts[:-1]), after[0])
    clear = all(sum(choice in part for part in parts) == 1 for choice in named)
    return named if clear else ()


def chosen(text: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The choices that the text names as runs of whole words; one inside a longer named one does not count.

    With choices ("lung", "left lung"), "the left lung" names ("left lung",). Choices come back normalised.
    """
    said = words(text)
    spans = []
    for choice in dict.fromkeys(words(choice) for choice in choices):
        n = len(choice)
        spans += [(i, i + n, choice) for i in range(len(said) - n + 1) if said[i : i + n] == choice]
    outer = [choice for i, j, choice in spans if not any(a <= i and j <= b and b - a > j - i for a, b, _ in spans)]
    return tuple(dict.fromkeys(" ".join(choice) for choice in outer))


def exact_match(prediction: str, truth: str) -> float:
    """1.0 where both are the same words in the same order, else 0.0."""
    return float(words(prediction) == words(truth))


class Overlap(NamedTuple):
    """Token overlap of two bags of words, each in 0..1."""

    f1: float
    precision: float
    recall: float


def token_overlap(prediction: str, truth: str) -> Overlap:
    """Precision, recall and F1 of the shared words, each counted as often as both sides have it."""
    said, true = Counter(words(prediction)), Counter(words(truth))
    shared = (said & true).total()
    if not shared:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = shared / said.total(), shared / true.total()
    return Overlap(2 * precision * recall / (precision + recall), precision, recall)


def bootstrap_of(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable],
    count: int,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a statistic of `count` values, given how often each was drawn (float64 [count]).

    `clusters` is one label per value, for example the image that a question is about: whole clusters are drawn, since
    answers about one image are not independent. Draws in which the statistic has no meaning (NaN) are left out. None
    with fewer than two clusters, or where nothing is left.
    """
    index: dict[Hashable, int] = {}
    member = np.array([index.setdefault(label, len(index)) for label in clusters], np.int64)
    if len(member) != count:
        raise ValueError(f"{count} values but {len(member)} cluster labels")
    if len(index) < 2:
        return None
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    for n in range(resamples):
        drawn = np.bincount(rng.integers(len(index), size=len(index)), minlength=len(index))
        found[n] = statistic(drawn[member].astype(np.float64))
    tail = (1 - level) / 2
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def majority_answers(answers: Iterable[tuple[Hashable, str]]) -> dict[Hashable, str]:
    """The most frequent answer of each group, where answers of the same `words` are one, in its most frequent spelling.

    Among equals the first in the alphabet.
    """
    spellings: defaultdict[Hashable, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for group, answer in answers:
        spellings[group][normalise(answer)][answer] += 1

    def first(counted: Mapping[str, int]) -> str:
        return min(counted, key=lambda text: (-counted[text], text))

    return {
        group: first(said[first({words: spelled.total() for words, spelled in said.items()})])
        for group, said in spellings.items()
    }
