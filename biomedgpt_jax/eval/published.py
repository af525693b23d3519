"""Published scores beside ours, and whether the two say anything about each other.

A figure of a paper is comparable with a score of ours only where protocol, test questions and their number are known to
be the same. Whatever differs, or is not known, is said beside it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

ALL, UNSTATED = "all", "not stated"


@dataclass(frozen=True)
class Figure:
    """One published score, in percent.

    `data` is a family of data sets (`vqa_rad`), `exact` those of ours that hold the very test questions that were
    scored; () where that is not known. `protocol` and `score` are ours that compute the metric; "" where none does.
    """

    model: str
    setting: str  # "zero-shot", "fine-tuned" or UNSTATED
    data: str
    exact: tuple[str, ...]
    questions: str  # "open", "closed", ALL or UNSTATED
    n: int | None  # how many were scored, where it is known
    metric: str  # as its authors call it
    protocol: str
    score: str
    value: float
    margin: float | None  # published plus or minus
    source: str
    doubt: str = ""  # why the figure itself is not certain


@dataclass(frozen=True)
class Measured:
    """One score of ours, in 0..1. `results`: the folder of its evaluation."""

    results: str
    data: str  # name of the data set
    split: str
    reworded: bool  # questions were not put as they stand in the data set
    protocol: str
    task: str
    questions: str  # "open", "closed" or ALL
    whole: bool  # all questions of its task
    n: int
    part: bool  # of the split
    score: str
    headline: bool  # the one to show where only one is shown
    mean: float
    low: float | None
    high: float | None
    baseline: float | None
    truncated: int


@dataclass(frozen=True)
class Beside:
    """A figure, the nearest score of ours, and what keeps them apart; with nothing they may be compared."""

    figure: Figure
    ours: Measured | None
    apart: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        return not self.apart


# Our splits and readings of a data set, by the name that papers have for it; the likeliest that they mean first.
FAMILIES = {
    "vqa_rad": ("vqa_rad_official", "vqa_rad", "vqa_rad_body_parts"),
    "slake": ("slake", "slake_zh"),
    "meqsum": ("meqsum", "meqsum_original"),
}
MADE_BY_US = ("organ",)  # tasks of questions that we added to a data set; no paper asks them


def family(name: str) -> str:
    """Of a data set of ours; its own name where no other shares it."""
    for title, members in FAMILIES.items():
        if name in members:
            return title
    return name.split("_")[0] if "mnist" in name else name  # pathmnist_224 is pathmnist in another size


def beside(figures: Iterable[Figure], measured: Iterable[Measured]) -> list[Beside]:
    """Each figure about data that was measured, in the given order."""
    rows = [row for row in measured if row.task not in MADE_BY_US]
    families = {family(row.data) for row in rows}
    return [_nearest(figure, rows) for figure in figures if figure.data in families]


def differences(figure: Figure, ours: Measured) -> tuple[str, ...]:
    """What keeps a published figure and a score of ours from being compared; () where nothing does."""
    apart = []
    if not figure.protocol:
        unstated = figure.metric == UNSTATED
        apart.append("its metric is not stated" if unstated else f"no protocol of ours computes its {figure.metric}")
    elif figure.protocol != ours.protocol:
        apart.append(f"other protocol ({figure.protocol} there)")
    elif figure.score != ours.score:
        apart.append(f"other score ({figure.score} there)")
    if not figure.exact:
        apart.append("its test questions are not known")
    elif ours.data not in figure.exact:
        apart.append(f"other split ({' or '.join(figure.exact)} there)")
    if not ours.split.startswith("test"):
        apart.append(f"other split (test there, {ours.split} here)")
    if figure.questions == UNSTATED:
        apart.append("it is not stated which questions it counts")
    if ours.reworded:
        apart.append("questions in another wording here")
    if ours.part:
        apart.append("only a part of the split here")
    elif figure.n not in (None, ours.n):
        apart.append(f"{figure.n:,} questions there, {ours.n:,} here")
    if figure.doubt:
        apart.append(f"the figure is uncertain: {figure.doubt}")
    return tuple(apart)


def _alike(figure: Figure, row: Measured) -> bool:
    """Whether the row is about the same kind of questions, as far as that is stated."""
    return figure.questions in (row.questions, UNSTATED) or (figure.questions == ALL and row.whole)


def _nearest(figure: Figure, rows: list[Measured]) -> Beside:
    """With the score of ours from which the fewest differences keep it."""
    asked = [row for row in rows if family(row.data) == figure.data]
    alike = [row for row in asked if _alike(figure, row)]
    likely = FAMILIES.get(figure.data, ())
    alike.sort(key=lambda row: likely.index(row.data) if row.data in likely else 0)
    found = min(alike, key=lambda row: len(differences(figure, row)), default=None)
    if found is None:
        return Beside(figure, None, (f"no {figure.questions} questions were scored together here",))
    return Beside(figure, found, differences(figure, found))
