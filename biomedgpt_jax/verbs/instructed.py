"""One exam in the wordings of `config.instruct`, and what several of them say together: their mean and their spread."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.instructions.reword import Choose, chooser
from biomedgpt_jax.data.instructions.variant import COUNT, TRAINED
from biomedgpt_jax.data.writer import write_json
from biomedgpt_jax.eval.compare import Evaluation
from biomedgpt_jax.eval.summary import ALIGNED
from biomedgpt_jax.report.content import RunPage, Table, percent
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.exam import Exam, exam
from biomedgpt_jax.verbs.page_content import ALIGNMENT

ALL = "all"
OVERVIEW = "wordings.json"
SUMMED_UP = 8  # columns of `spread_table` before those of single wordings
NUMBERS = tuple(map(str, range(1, COUNT + 1)))


@dataclass(frozen=True)
class Spread:
    """One score of one group of questions in all wordings, in 0..1. `held_out` are those that no mixture trains on."""

    task: str
    answer_type: str
    score: str
    by_wording: tuple[float, ...]
    mean: float
    deviation: float
    trained: float
    held_out: float


def exams_of(config: Config, out: Path) -> Iterator[tuple[Exam, Path]]:
    """The exam that a configuration like configs/eval.py names, and the folder of its results; one for each wording
    where it asks for all.

    Raises:
        UsageError: no such wording. DataError, RunError: a split that is not there, cannot be scored or reworded.
    """
    named = str(config.instruct)
    for each in NUMBERS if named == ALL else (named,):
        choose = wording(each, config.instruct_seed)
        folder = out / f"wording_{each}" if named == ALL else out
        yield exam(config.data, config.split, config.train_split, config.limit, choose), folder


def wording(named: str, seed: int) -> Choose | None:
    """That of `config.instruct`; None: questions as they stand. Raises UsageError where there is none so named."""
    try:
        return chooser(named, seed) if named else None
    except ValueError as error:
        raise UsageError(f"config.instruct={named!r}: {error}, or {ALL}.") from error


def spreads(evaluations: Sequence[Evaluation]) -> list[Spread]:
    """The headline score and the share of aligned outputs of each group; `evaluations` are of wordings 1, 2, ..."""
    found = []
    for groups in zip(*(each.scores["groups"] for each in evaluations), strict=True):
        first = groups[0]
        for score in dict.fromkeys((first["headline"], ALIGNED)):
            if score in first["scores"]:
                means = [group["scores"][score]["mean"] for group in groups]
                found.append(_spread(first["task"], first["answer_type"], score, means))
    return found


def write_overview(out: Path, evaluations: Sequence[Evaluation], pages: Sequence[RunPage]) -> RunPage:
    """Writes wordings.json and returns the page of all wordings."""
    found = spreads(evaluations)
    write_json(out / OVERVIEW, {"protocol": pages[0].protocol, "scores": [asdict(each) for each in found]})
    first = pages[0]
    return RunPage(
        title=f"{first.title} in {len(pages)} wordings",
        model=first.model,
        data=first.data,
        protocol=first.protocol,
        interval="",
        scores=(),
        samples=(),
        facts=first.facts,
        tables=(spread_table(found), *_alignments(pages)),
    )


def spread_table(found: Sequence[Spread]) -> Table:
    columns = ("questions", "score", "mean", "deviation", "lowest", "highest", f"1 to {TRAINED}",
               f"held out, {TRAINED + 1} to {COUNT}", *(f"wording {number}" for number in NUMBERS))  # fmt: skip
    rows = tuple(
        (f"{each.task}, {each.answer_type}", each.score, percent(each.mean), percent(each.deviation),
         percent(min(each.by_wording)), percent(max(each.by_wording)), percent(each.trained), percent(each.held_out),
         *map(percent, each.by_wording))
        for each in found
    )  # fmt: skip
    return Table("All wordings", columns, rows)


def show(console: Console, table: Table, columns: int) -> None:
    """Prints the first columns of a table."""
    shown = RichTable(*table.columns[:columns], title=table.title, title_justify="left")
    for row in table.rows:
        shown.add_row(*map(Text, row[:columns]))
    console.print(shown)


def _alignments(pages: Sequence[RunPage]) -> Iterator[Table]:
    for number, page in zip(NUMBERS, pages, strict=True):
        yield from (
            replace(each, title=f"Wording {number}. {each.title}") for each in page.tables if each.title == ALIGNMENT
        )


def _spread(task: str, answer_type: str, score: str, means: Sequence[float]) -> Spread:
    values = np.array(means)
    trained, held_out = float(values[:TRAINED].mean()), float(values[TRAINED:].mean())
    return Spread(task, answer_type, score, tuple(means), float(values.mean()), float(values.std()), trained, held_out)
