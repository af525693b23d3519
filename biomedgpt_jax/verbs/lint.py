"""Checks prepared data as a training would read it: with its tokenizer, its template, its limits, and what it scores.

    biomedgpt lint --workdir=runs/small --config=configs/smoke.py:stage=1,data=data/vqa_rad

Prints what was found and writes lint.json and lint.html into the folder of the run that is to come. `biomedgpt train`
with the same configuration and folder reads lint.json; where there is none it does the checks that decode no image. It
refuses data with errors, unless their codes are allowed: --allow=CODE,CODE or config.data.allow. What was found and
allowed stands in the facts of every score. Exit code 1: there are errors that nobody allowed.

Samples are named by their ids; their texts and images are not shown.
"""

import sys
from pathlib import Path

from absl import flags
from rich.table import Table as RichTable
from rich.text import Text

from biomedgpt_jax.convert.processing import LINT
from biomedgpt_jax.data.lint.findings import Severity, refused
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.report.content import DataFacts, RunPage
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.families import training_config
from biomedgpt_jax.verbs.family import Family
from biomedgpt_jax.verbs.lint_content import COLUMNS, finding_rows, findings_table
from biomedgpt_jax.verbs.linting import Lint, define_allow, take_allowed, whole_lint, write_lint
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.train import checked_family

EXAMPLE = "biomedgpt lint --workdir=runs/small --config=configs/smoke.py:stage=1,data=data/vqa_rad"
PAGE = "lint.html"
COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow"}


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    define_allow(values)
    flags.DEFINE_string("workdir", None, "Folder of the run that is to come; made when absent.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    config = training_config(values, EXAMPLE)
    workdir = command_line.require_folder(values, "workdir", EXAMPLE)
    take_allowed(values, config)
    family = checked_family(config)
    spec = family.spec(config)
    workdir.mkdir(parents=True, exist_ok=True)
    with progress() as advance:
        lint = whole_lint(config, family, spec, workdir, advance)
    write_lint(workdir, lint, config)
    write_page(_page(lint, config, family, workdir), workdir / PAGE)
    console = make_console()
    console.print(_table(lint))
    console.print(f"Page: {workdir / PAGE}; for other programs: {workdir / LINT}", markup=False)
    bad = refused(lint.findings, config.data.allow)
    if bad:
        codes = ", ".join(dict.fromkeys(each.code for each in bad))
        print(f"biomedgpt lint: errors, which a training refuses: {codes}", file=sys.stderr)
    return 1 if bad else 0


def _table(lint: Lint) -> RichTable:
    counts = ", ".join(f"{name} {count}" for name, count in lint.samples.items())
    table = RichTable(title=f"Lint of {counts} samples", title_justify="left")
    for column in COLUMNS[:-2]:
        table.add_column(column, justify="right" if column in ("count", "of") else "left")
    for row in finding_rows(lint):
        style = COLOURS[Severity(row[1])]
        table.add_row(Text(row[0]), Text(row[1], style=style), *map(Text, row[2:-2]))
    return table


def _page(lint: Lint, config: Config, family: Family, workdir: Path) -> RunPage:
    manifests = [read_manifest(Path(path)) for path in dict.fromkeys((*config.data.paths, *config.eval.paths))]
    errors = len(refused(lint.findings, config.data.allow))
    return RunPage(
        title=f"Lint of the data of {workdir.resolve().name}",
        model=f"What a {family.title} reads and is asked: {len(lint.findings)} findings, {errors} of them refused.",
        data=DataFacts(
            name="; ".join(each.title for each in manifests),
            origin="; ".join(dict.fromkeys(each.source for each in manifests)),
            licence="; ".join(dict.fromkeys(each.licence for each in manifests)),
            split=", ".join(f"{name} {count} samples" for name, count in lint.samples.items()),
        ),
        protocol="",
        interval="",
        scores=(),
        samples=(),
        facts=(("data and settings", lint.key), ("allowed", ", ".join(config.data.allow) or "nothing")),
        tables=(findings_table(lint),),
    )
