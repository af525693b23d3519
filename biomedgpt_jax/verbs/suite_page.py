"""The table of a suite in four forms: suite.md, suite.json, suite.html, suite.tex."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as Printed

from biomedgpt_jax.data.spec import DatasetSpec
from biomedgpt_jax.eval.compare import Evaluation
from biomedgpt_jax.eval.measured import Origin, measured
from biomedgpt_jax.eval.published import Beside, Figure, Measured, beside
from biomedgpt_jax.eval.published_figures import FIGURES
from biomedgpt_jax.eval.summary import INTERVAL
from biomedgpt_jax.report.content import DataFacts, RunPage, Table, percent
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.report.text_tables import latex, markdown
from biomedgpt_jax.verbs.suite_plan import LeftOut, Planned

NONE, APART = "\N{EN DASH}", "\N{NOT EQUAL TO}"
BESIDE = (
    "A published figure stands beside a score of ours. They may be compared only where the last column but one says "
    f"yes; where it does not, the score of ours is marked {APART} and what differs, or is not known, is said. Figures "
    "are in percent, as published."
)


@dataclass(frozen=True)
class Suite:
    """What was asked of a model, and what was not."""

    facts: Mapping[str, Any]
    results: tuple[tuple[Planned, Evaluation], ...]
    left_out: tuple[LeftOut, ...]
    failed: tuple[LeftOut, ...]
    absent: tuple[DatasetSpec, ...]

    @property
    def description(self) -> str:
        return next((str(each.scores["facts"].get("description", "")) for _, each in self.results), "")

    @cached_property
    def measured(self) -> tuple[Measured, ...]:
        return tuple(
            row for planned, evaluation in self.results for row in measured(evaluation, _origin(planned, evaluation))
        )

    @cached_property
    def published(self) -> tuple[Beside, ...]:
        return tuple(beside(FIGURES, self.measured))


def write_suite(suite: Suite, out: Path) -> None:
    """Each file whole or not at all; of the same results always the same, byte for byte."""
    tables, facts = _tables(suite), _facts(suite)
    lines = [f"# {_title(suite)}", "", *(f"- {name}: {value}" for name, value in facts), "", f"Intervals: {INTERVAL}."]
    _write(out / "suite.md", "\n".join([*lines, "", f"{BESIDE}\n", *map(markdown, tables)]))
    _write(out / "suite.tex", "\n".join([*(f"% {name}: {value}" for name, value in facts), *map(latex, tables)]))
    _write(out / "suite.json", json.dumps(_json(suite), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_page(_page(suite, tables, facts), out / "suite.html")


def scores_table(suite: Suite) -> Printed:
    """What is printed at the end."""
    table = Printed(title=_title(suite), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("data set", "questions", "n", "protocol", "score", "mean", "majority"):
        table.add_column(name, overflow="fold")
    for row in suite.measured:
        if row.headline:
            asked = (row.data, f"{row.task}, {row.questions}", str(row.n), row.protocol, row.score)
            table.add_row(*asked, percent(row.mean), percent(row.baseline))
    return table


def _origin(planned: Planned, evaluation: Evaluation) -> Origin:
    results = f"{planned.title}/{Path(evaluation.folder).name}"
    return Origin(results, planned.name, planned.split, part=planned.is_part)


def _title(suite: Suite) -> str:
    return f"Scores of {suite.facts['model']}"


def _facts(suite: Suite) -> tuple[tuple[str, str], ...]:
    facts = {"description": suite.description, **suite.facts}
    return tuple((name.replace("_", " "), str(value)) for name, value in facts.items() if name != "model")


def _tables(suite: Suite) -> tuple[Table, ...]:
    tables: list[Callable[[Suite], Table]] = [_scores, _beside, _asked, _left_out, _absent]
    return tuple(table for make in tables if (table := make(suite)).rows)


def _scores(suite: Suite) -> Table:
    columns = (
        "data set", "split", "questions", "n", "protocol", "score", "mean", "95% interval", "majority answer",
        "results",
    )  # fmt: skip
    rows = (
        (
            row.data,
            _split(row),
            f"{row.task}, {row.questions}",
            f"{row.n:,}",
            row.protocol,
            row.score,
            percent(row.mean),
            NONE if row.low is None else f"{percent(row.low)} to {percent(row.high)}",
            percent(row.baseline),
            row.results,
        )
        for row in suite.measured
        if row.headline
    )
    return Table("Scores", columns, tuple(rows))


def _beside(suite: Suite) -> Table:
    columns = (
        "data set", "questions", "model", "setting", "metric", "published", "ours", "here", "comparable", "source",
    )  # fmt: skip
    rows = (
        (
            each.figure.data,
            each.figure.questions,
            each.figure.model,
            each.figure.setting,
            each.figure.metric,
            _published(each.figure),
            _ours(each),
            NONE if each.ours is None else f"{each.ours.data}, {_split(each.ours)}, {each.ours.protocol}",
            "yes" if each.comparable else f"NO: {'; '.join(each.apart)}",
            each.figure.source,
        )
        for each in suite.published
    )
    return Table("Beside published figures", columns, tuple(rows))


def _asked(suite: Suite) -> Table:
    """How the answers were made and what data they are about."""
    rows = []
    for planned, evaluation in suite.results:
        decoding = evaluation.scores["facts"].get("decoding", {})
        said = ", ".join(f"{name} {value}" for name, value in decoding.items())
        cut = f"{sum(group['truncated'] for group in evaluation.scores['groups']):,}"
        rows.append((planned.title, evaluation.scores["protocol"], said, cut, evaluation.scores["data_hash"]))
    return Table("How it was asked", ("data set", "protocol", "decoding", "cut off", "data hash"), tuple(rows))


def _left_out(suite: Suite) -> Table:
    rows = ((each.name, each.protocol or NONE, each.why) for each in (*suite.failed, *suite.left_out))
    return Table("Not scored, though there", ("data set", "protocol", "why"), tuple(rows))


def _absent(suite: Suite) -> Table:
    """Known data sets that are not on this machine; `biomedgpt data --name=NAME` says how to get one."""
    tasks: dict[str, list[str]] = {}
    for spec in suite.absent:
        tasks.setdefault(spec.task, []).append(spec.name)
    return Table("Not here", ("task", "data sets"), tuple((task, ", ".join(names)) for task, names in tasks.items()))


def _split(row: Measured) -> str:
    return f"part of {row.split}" if row.part else row.split


def _published(figure: Figure) -> str:
    return f"{figure.value:g}" + ("" if figure.margin is None else f" \N{PLUS-MINUS SIGN} {figure.margin:g}")


def _ours(each: Beside) -> str:
    if each.ours is None:
        return NONE
    value = f"{100 * each.ours.mean:.1f}"
    return value if each.comparable else f"{APART} {value}"


def _json(suite: Suite) -> dict[str, Any]:
    return {
        "model": dict(suite.facts),
        "interval": INTERVAL,
        "scores": [asdict(row) for row in suite.measured],
        "published": [{**asdict(each), "comparable": each.comparable} for each in suite.published],
        "sets": [
            {
                "set": planned.title,
                "protocol": evaluation.scores["protocol"],
                "data_hash": evaluation.scores["data_hash"],
                "facts": evaluation.scores["facts"],
            }
            for planned, evaluation in suite.results
        ],
        "not_scored": [asdict(each) for each in (*suite.failed, *suite.left_out)],
        "absent": [spec.name for spec in suite.absent],
    }


def _page(suite: Suite, tables: tuple[Table, ...], facts: tuple[tuple[str, str], ...]) -> RunPage:
    names = dict.fromkeys(planned.title for planned, _ in suite.results)
    data = DataFacts(
        name=f"{len(names)} prepared splits",
        origin=", ".join(names),
        licence="of each data set its own; `biomedgpt data` tells them",
        split=BESIDE,
    )
    return RunPage(
        title=_title(suite),
        model=suite.description,
        data=data,
        protocol="of each row its own",
        interval=INTERVAL,
        scores=(),
        samples=(),
        facts=facts,
        tables=tables,
    )


def _write(file: Path, text: str) -> None:
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)
