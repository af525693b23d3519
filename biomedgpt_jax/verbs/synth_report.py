"""What `biomedgpt synth` shows and leaves: the estimate, the data with its lint, report.json and report.html."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from biomedgpt_jax.data.lint import images, leaks, privacy, texts
from biomedgpt_jax.data.lint.findings import RULES, Finding
from biomedgpt_jax.data.lint.material import Material, Part
from biomedgpt_jax.data.manifest import Manifest
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.writer import write_json
from biomedgpt_jax.report.content import DataFacts, RunPage, Table
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.synth.asks import Task
from biomedgpt_jax.synth.checks import FAULTS
from biomedgpt_jax.synth.costs import Prices
from biomedgpt_jax.synth.estimate import Estimate
from biomedgpt_jax.synth.outcomes import Judge
from biomedgpt_jax.synth.rows import PREPARED, REJECTS, ROWS, Tally, collect, write_prepared
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console

REPORT, PAGE = "report.json", "report.html"
LINT = (texts.empty_answers, texts.repeated_samples, privacy.protected_information, leaks.near_texts, images.pictures)


def print_estimate(console: Console, made: Estimate, prices: Prices | None, config: Config) -> None:
    table = RichTable(title="Before the start", title_justify="left")
    table.add_column("what")
    table.add_column("count", justify="right")
    tries = config.checks.tries
    rows = [
        ("tasks (rows x prompts)", f"{made.tasks:,}"),
        ("accepted, rejected, waiting before", f"{made.accepted:,}, {made.rejected:,}, {made.waiting:,}"),
        ("requests, if each first answer is good", f"{made.requests:,}"),
        ("input tokens, about", f"{made.input_tokens:,}"),
        ("output tokens, at most", f"{made.output_tokens:,}"),
    ]
    if made.mentions_left:
        rows.append(("mentions left out: too long", f"{made.mentions_left:,}"))
    if prices:
        rows.append(("money for that, at most about", f"{made.money(prices):,.4g} {prices.currency}"))
        rows.append((f"money with {tries} tries of each", f"{tries * made.money(prices):,.4g} {prices.currency}"))
    else:
        rows.append(("money", "not known: no config.prices"))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def finish(tasks: Callable[[], Iterator[Task]], judge: Judge, facts: dict[str, Any], out: Path, ended: str) -> None:
    """Writes the data of all that is answered, and says what became of the tasks."""
    manifests: dict[str, Manifest] = facts.pop("manifests")
    split = facts["config"]["synth"]["split"]
    rows, tally = collect(tasks(), judge, out)
    findings: list[Finding] = []
    if rows:
        write_prepared(rows, manifests, out, out.resolve().name, split, " ".join(sys.argv[1:]))
        findings = _lint(PreparedSplit(out / PREPARED, split))
    report = {
        **facts,
        "ended": ended,
        "tasks": {name: value for name, value in vars(tally).items() if isinstance(value, int)},
        "rejected": dict(tally.rejected),
        "again": dict(tally.again),
        "lint": [{**vars(each), "severity": each.severity.value, "ids": list(each.ids)} for each in findings],
    }
    write_json(out / REPORT, report)
    tables = _tables(tally, facts, findings)
    write_page(_page(out, manifests, facts, tables, split), out / PAGE)
    console = make_console()
    for table in tables:
        _show(console, table)
    made = f"Data: {out / PREPARED} (prepared), {out / ROWS}; " if rows else "No row was accepted, no data is written; "
    console.print(f"{made}rejects: {out / REJECTS}; report: {out / REPORT}, {out / PAGE}", markup=False)


def _lint(split: PreparedSplit) -> list[Finding]:
    part = Part(split, True, split.samples(range(len(split))))
    part.pictures = images.look(split, 1, lambda done, total: None)
    material = Material((part,))
    return [finding for check in LINT for finding in check(material)]


def _tables(tally: Tally, facts: dict[str, Any], findings: list[Finding]) -> tuple[Table, ...]:
    spent, currency = facts["spent"], facts["config"]["prices"]["currency"]
    rows = [
        ("accepted", f"{tally.accepted:,}"),
        ("left out as duplicates", f"{tally.duplicates:,}"),
        ("rejected", f"{tally.refused:,}"),
        ("still open", f"{tally.open:,}"),
        ("waiting (batch files, or may have been paid)", f"{tally.waiting:,}"),
        *((f"rows that are no source: {why}", f"{count:,}") for why, count in facts["left"].items()),
        ("answers", f"{spent['answers']:,}"),
        ("input tokens", f"{spent['input_tokens']:,}"),
        ("output tokens", f"{spent['output_tokens']:,}"),
        ("requests without an answer that may have been paid, or will be in a batch", f"{spent['doubtful']:,}"),
    ]
    if facts["money"] is not None:
        rows.append(("money, at most", f"{facts['money']:,.4g} {currency}"))
    codes = sorted({*tally.rejected, *tally.again})
    faults = tuple((code, str(tally.rejected[code]), str(tally.again[code]), FAULTS[code]) for code in codes)
    lint = tuple((e.code, e.severity.value, str(e.count), str(e.total), RULES[e.code].what) for e in findings)
    tables = [
        Table("What became of it", ("what", "count"), tuple(rows)),
        Table("Faults of answers", ("code", "rejected tasks", "tries before a good one", "what"), faults),
        Table("Lint of the accepted rows", ("code", "severity", "count", "of", "what"), lint),
    ]
    return tuple(table for table in tables if table.rows)


def _show(console: Console, table: Table) -> None:
    shown = RichTable(title=table.title, title_justify="left")
    for column in table.columns:
        shown.add_column(column)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def _page(
    out: Path, manifests: dict[str, Manifest], facts: dict[str, Any], tables: tuple[Table, ...], split: str
) -> RunPage:
    asked = facts["config"]["endpoint"]
    sources = manifests.values()
    return RunPage(
        title=f"Instruction data of {out.resolve().name}",
        model=f"Written by {asked['model']} at {facts['host']} from captions; checked against them by terms.",
        data=DataFacts(
            name="; ".join(each.title for each in sources),
            origin="; ".join(dict.fromkeys(each.source for each in sources)),
            licence="; ".join(dict.fromkeys(each.licence for each in sources)),
            split=split,
        ),
        protocol="",
        interval="",
        scores=(),
        samples=(),
        facts=(
            *((f"prompt {name}", sha256) for name, sha256 in facts["prompts"].items()),
            ("settings", json.dumps(facts["config"], default=str)),
        ),
        tables=tables,
    )
