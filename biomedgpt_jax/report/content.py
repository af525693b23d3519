"""What a report says, as plain data. The page and the terminal table are two views of a `RunPage`."""

from dataclasses import dataclass

NOT_A_DOCTOR = (
    "This is a research program, not a doctor and not a medical device. Its answers are often wrong, they sound "
    "certain when they are, and nobody has tested them on patients. Do not use them for diagnosis or care."
)


@dataclass(frozen=True)
class DataFacts:
    """Which data set was used and where it came from."""

    name: str
    origin: str  # the folder, address or packages that it was read from
    licence: str
    split: str  # how training and held-out data were kept apart, with counts


@dataclass(frozen=True)
class Check:
    """Something the run had to reach, for example a margin over the baseline or the parity of the export."""

    name: str
    found: str
    needed: str
    ok: bool


@dataclass(frozen=True)
class LossRow:
    """The training loss of a stage, nats per supervised token."""

    stage: str
    steps: int
    first: float
    last: float


@dataclass(frozen=True)
class ScoreRow:
    """The headline score of one group of questions, in 0..1. None: not measured."""

    questions: str  # which ones, for people: "body part, closed"
    n: int
    before: float | None  # before training
    after: float
    low: float | None  # interval of `after`
    high: float | None
    baseline: float | None  # always the most frequent training answer
    baseline_answer: str | None


@dataclass(frozen=True)
class Series:
    """One line of a chart. Points that are not finite interrupt it."""

    name: str
    x: tuple[int | float, ...]
    y: tuple[int | float, ...]


@dataclass(frozen=True)
class Chart:
    """Lines over a shared x axis."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_y: bool


@dataclass(frozen=True)
class Shown:
    """One held-out question with the model's answer. `images` are encoded (JPEG, PNG, ...)."""

    id: str
    images: tuple[bytes, ...]
    task: str
    question: str
    truth: str
    prediction: str
    right: bool
    before: str | None  # what the model said before training


@dataclass(frozen=True)
class Table:
    """A table of text, for example the ledger of parameters."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RunPage:
    """A whole report. An empty field leaves its section out, so a bare evaluation is a page too."""

    title: str
    model: str  # what it is, in a sentence or two
    data: DataFacts
    protocol: str  # "strict/v1"
    interval: str  # how the intervals were made
    scores: tuple[ScoreRow, ...]
    samples: tuple[Shown, ...]
    checks: tuple[Check, ...] = ()
    losses: tuple[LossRow, ...] = ()
    charts: tuple[Chart, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()  # configuration hash, versions, time
    tables: tuple[Table, ...] = ()


def percent(value: float | None) -> str:
    """0.5 -> "50.0%"; None -> an en dash."""
    return "\u2013" if value is None else f"{100 * value:.1f}%"
