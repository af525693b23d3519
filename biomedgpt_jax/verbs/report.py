"""Writes the HTML page of a training in one or more stages, and prints its table.

    biomedgpt report --runs=runs/stage1,runs/stage2 --export=runs/huggingface --out=runs/report.html

The first run's evaluation at step 0 is "before", the last run's newest one "after". With --require=organ:20 the
verb fails unless the held-out answers to that task's questions beat the majority answer by so many points.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from absl import flags

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.eval.compare import Evaluation, load
from biomedgpt_jax.report.content import Check, RunPage, Table
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.report.table import summary_table
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.families import family_of_run
from biomedgpt_jax.verbs.lint_content import findings_table
from biomedgpt_jax.verbs.linting import read_lint
from biomedgpt_jax.verbs.page_content import (
    data_facts,
    lint_said,
    loss_chart,
    loss_rows,
    metrics_rows,
    protocol_facts,
    score_rows,
    shown_samples,
    task_name,
)
from biomedgpt_jax.verbs.score_tables import part_tables
from biomedgpt_jax.verbs.spec_file import read_spec

EXAMPLE = "biomedgpt report --runs=runs/stage1,runs/stage2 --out=runs/report.html"


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_list("runs", [], "Workdirs of the stages, in order.", flag_values=values)
    flags.DEFINE_string("export", None, "Exported folder, for its parity certificate.", flag_values=values)
    flags.DEFINE_string("out", None, "HTML file to write.", flag_values=values)
    flags.DEFINE_string("require", None, "TASK:POINTS over the majority answer to reach.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    runs = [Path(name) for name in command_line.require(values, "runs", EXAMPLE)]
    out = Path(command_line.require(values, "out", EXAMPLE))
    export = Path(values.export) if values.export else None
    page = make_page(runs, export, _requirement(values.require))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(page, out)
    console = make_console()
    console.print(summary_table(page))
    console.print(f"Page: {out}", markup=False)
    missed = [check.name for check in page.checks if not check.ok]
    if missed:
        print(f"biomedgpt report: not reached: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def make_page(runs: list[Path], export: Path | None, required: tuple[str, float] | None) -> RunPage:
    """Raises RunError where a run has not been trained or evaluated."""
    rows = [(f"stage {number}", metrics_rows(run)) for number, run in enumerate(runs, 1)]
    config = json.loads((runs[-1] / "config.json").read_text())
    before, after = _evaluation(runs[0], first=True), _evaluation(runs[-1], first=False)
    data = Path(config["data"]["paths"][0])
    family = family_of_run(runs[-1])
    return RunPage(
        title=f"{family.title}, trained, scored and exported",
        model=family.describe(read_spec(runs[-1], family.spec_type)),
        data=data_facts(read_manifest(data), data),
        protocol=after.scores["protocol"],
        interval=after.scores["interval"],
        scores=score_rows(after, before),
        samples=shown_samples(PreparedSplit(data, config["eval"]["split"]), after, before),
        checks=(*_margin_checks(after, required), *_parity_checks(export)),
        losses=loss_rows(rows),
        charts=tuple(loss_chart(name, steps) for name, steps in rows),
        facts=(
            ("configuration", str(runs[-1] / "config.json")),
            ("data hash", after.scores["data_hash"]),
            *protocol_facts(after.scores).items(),
            ("lint", lint_said(after.scores["facts"])),
            ("versions", ", ".join(f"{name} {version(name)}" for name in ("biomedgpt-jax", "jax", "flax"))),
        ),
        tables=(*part_tables(after), *_lint_tables(runs[-1]), _ledger_table(runs[-1])),
    )


def _evaluation(run: Path, *, first: bool) -> Evaluation:
    steps = sorted((run / "eval").glob("step_*/*/scores.json"), key=lambda file: _step(file.parent.parent))
    if not steps:
        raise RunError(f"{run}/eval holds no evaluation; train with config.eval.paths set.")
    return load(str(steps[0 if first else -1].parent))


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _requirement(text: str | None) -> tuple[str, float] | None:
    if text is None:
        return None
    task, _, points = text.partition(":")
    try:
        return task, float(points)
    except ValueError:
        raise UsageError(f"--require={text}: expected TASK:POINTS, like organ:20.") from None


def _margin_checks(after: Evaluation, required: tuple[str, float] | None) -> tuple[Check, ...]:
    """One check per kind of answer of the task."""
    if required is None:
        return ()
    task, points = required
    found = [group for group in after.scores["groups"] if group["task"] == task and group["baseline"]]
    if not found:
        tasks = sorted({group["task"] for group in after.scores["groups"]})
        raise RunError(f"{after.folder}: no question of task {task!r} was scored; there are {', '.join(tasks)}.")
    return tuple(
        Check(
            name=f"{task_name(task)}, {group['answer_type']}: points over the majority answer",
            found=f"{100 * group['baseline']['margin']['mean']:+.1f}",
            needed=f"{points:+.0f}",
            ok=100 * group["baseline"]["margin"]["mean"] >= points,
        )
        for group in found
    )


def _parity_checks(export: Path | None) -> tuple[Check, ...]:
    if export is None:
        return ()
    file = export / "parity.json"
    if not file.exists():
        raise RunError(f"{file} is missing; run `biomedgpt export` to the end.")
    certificate = json.loads(file.read_text())
    same, other = certificate["reimport"], certificate["transformers"]
    checks = [
        Check(
            name="export read back: arrays that differ",
            found=f"{len(same['unequal'])} of {same['leaves']}",
            needed="0",
            ok=same["passed"],
        )
    ]
    if other is not None:
        checks.append(
            Check(
                name=f"{other['architecture']} in transformers: largest logit difference, relative",
                found=f"{other['max_rel']:.1e}, greedy answers equal: {'yes' if other['greedy_equal'] else 'no'}",
                needed=f"{other['tolerance']:.0e}",
                ok=other["passed"],
            )
        )
    return tuple(checks)


def _lint_tables(run: Path) -> tuple[Table, ...]:
    lint = read_lint(run)
    return () if lint is None else (findings_table(lint),)


def _ledger_table(run: Path) -> Table:
    ledger = json.loads((run / "ledger.json").read_text())
    rows = tuple(
        (row["module"], f"{row['parameters']:,}", "yes" if row["trainable"] else "frozen", f"{row['learning_rate']:g}")
        for row in ledger["rows"]
    )
    return Table("Parameters of the last stage", ("module", "parameters", "trained", "peak learning rate"), rows)
