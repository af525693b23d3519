"""What the pages show, gathered from the files of evaluations, runs and prepared data."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.data.manifest import Manifest
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.eval.compare import Evaluation
from biomedgpt_jax.report.content import Chart, DataFacts, LossRow, RunPage, ScoreRow, Series, Shown, Table, percent
from biomedgpt_jax.verbs.linting import UNKNOWN
from biomedgpt_jax.verbs.model_spec import ModelSpec, count_parameters
from biomedgpt_jax.verbs.score_tables import all_scores, part_tables, task_name

ALIGNMENT = "Alignment accuracy: outputs in the form that was demanded, right or wrong"
SHOWN_IMAGES = 12
SHOWN_PER_IMAGE = 3


def describe(spec: ModelSpec, model: ModelFns) -> str:
    vision, decoder = spec.model.vision, spec.model.decoder
    tower = vision.tower
    scales = " and ".join(str(scale) for scale in vision.s2.scales)
    return (
        f"Llama3-Med with {count_parameters(model):,} parameters: a vision tower of {tower.depth} layers of "
        f"{tower.width} channels at {scales} pixels, a connector, and a decoder of {decoder.depth} layers of "
        f"{decoder.width} channels; {spec.model.tokens_per_image} tokens per image."
    )


def data_facts(manifest: Manifest, folder: Path) -> DataFacts:
    counts = ", ".join(
        f"{name} {split.samples} questions on {split.images} images" for name, split in manifest.splits.items()
    )
    return DataFacts(
        name=manifest.title,
        origin=f"{manifest.source}, prepared in the folder {folder.name}",
        licence=manifest.licence,
        split=counts,
    )


def evaluation_page(evaluation: Evaluation, split: PreparedSplit) -> RunPage:
    """The page of one evaluation of `split`."""
    scores, facts = evaluation.scores, evaluation.scores["facts"]
    said = {key: value for key, value in facts.items() if key != "description"}
    said |= {"data hash": scores["data_hash"], **said.pop("decoding", {}), **protocol_facts(scores)}
    return RunPage(
        title=f"Evaluation of {facts.get('model', 'a model')}",
        model=facts.get("description", ""),
        data=data_facts(split.manifest, split.directory),
        protocol=scores["protocol"],
        interval=scores["interval"],
        scores=score_rows(evaluation, None),
        samples=shown_samples(split, evaluation, None),
        facts=tuple((key.replace("_", " "), _said(value)) for key, value in said.items()),
        tables=(*alignment_tables(evaluation), *part_tables(evaluation), all_scores(evaluation)),
    )


def protocol_facts(scores: dict[str, Any]) -> dict[str, str]:
    """Where the rules of the scores are from and what is wrong with them; from scores.json."""
    if "faults" not in scores:
        raise RunError(
            "scores.json was written by an earlier version and lacks what the page shows. Score its answers again, "
            "which writes a page of them: biomedgpt eval --config=configs/eval.py:data=... --rescore=FOLDER --out=OTHER"
        )
    return {"protocol": f"{scores['protocol']}: {scores['source']}", "its known faults": " ".join(scores["faults"])}


def alignment_tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """How many outputs obey the form that was demanded; none of questions that were asked as they stand."""
    rows = tuple(
        (
            row["type"],
            str(row["n"]),
            percent(row["aligned"]["mean"]),
            ""
            if row["aligned"]["low"] is None
            else f"{percent(row['aligned']['low'])} to {percent(row['aligned']['high'])}",
        )
        for row in evaluation.scores.get("alignment", ())
    )
    return (Table(ALIGNMENT, ("instruction", "n", "obey the form", "95% interval"), rows),) if rows else ()


def score_rows(after: Evaluation, before: Evaluation | None) -> tuple[ScoreRow, ...]:
    earlier = {} if before is None else {_key(group): group for group in before.scores["groups"]}
    rows = []
    for group in after.scores["groups"]:
        score, baseline = group["scores"][group["headline"]], group["baseline"]
        first = earlier.get(_key(group))
        rows.append(
            ScoreRow(
                questions=_named(group),
                n=group["n"],
                before=None if first is None else first["scores"][first["headline"]]["mean"],
                after=score["mean"],
                low=score["low"],
                high=score["high"],
                baseline=None if baseline is None else baseline["scores"][group["headline"]],
                baseline_answer=None if baseline is None else baseline["answer"],
            )
        )
    return tuple(rows)


def shown_samples(split: PreparedSplit, after: Evaluation, before: Evaluation | None) -> tuple[Shown, ...]:
    """A few questions each on images spread over the split."""
    by_image: dict[tuple[int, ...], list[Any]] = {}
    for number in range(len(split)):
        sample = split[number]
        by_image.setdefault(sample.images, []).append(sample)
    images = sorted(by_image)
    chosen = images[:: max(1, -(-len(images) // SHOWN_IMAGES))]
    return tuple(
        _shown(split, sample, after, before)
        for image in chosen
        for sample in sorted(by_image[image], key=lambda s: s.meta.get("task") == "vqa")[:SHOWN_PER_IMAGE]
    )


def loss_rows(runs: Iterable[tuple[str, list[dict[str, Any]]]]) -> tuple[LossRow, ...]:
    return tuple(
        LossRow(name, int(rows[-1]["step"]), float(rows[0]["loss"]), float(rows[-1]["loss"])) for name, rows in runs
    )


def loss_chart(name: str, rows: list[dict[str, Any]]) -> Chart:
    series = Series(name, tuple(row["step"] for row in rows), tuple(row["loss"] for row in rows))
    return Chart(f"Training loss, {name}", "step", "loss per supervised token", (series,), log_y=True)


def metrics_rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that hold a loss.

    Raises:
        RunError: there are none.
    """
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [row for line in lines if "loss" in (row := json.loads(line))]
    if not rows:
        raise RunError(f"{file} has no training step yet; run `biomedgpt train --workdir={workdir} ...` first.")
    return rows


def lint_said(facts: dict[str, Any]) -> str:
    """What lint found in the data of a run, from the facts of its scores."""
    checks, allowed = facts.get("lint_checks", UNKNOWN), facts.get("lint_allowed", ())
    if checks == UNKNOWN:
        return UNKNOWN
    return f"{_said(facts['lint'])} (checks: {checks})" + (f"; allowed: {', '.join(allowed)}" if allowed else "")


def _said(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key} {count}" for key, count in value.items()]
    return ", ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def _named(group: dict[str, Any]) -> str:
    """Task and kind of answer, and the score that is shown where it is not the share of right answers."""
    score = "" if group["headline"] == "accuracy" else f": {group['headline']}"
    return f"{task_name(group['task'])}, {group['answer_type']}{score}"


def _shown(split: PreparedSplit, sample: Any, after: Evaluation, before: Evaluation | None) -> Shown:
    row = after.rows[sample.id]
    headline = {_key(group): group["headline"] for group in after.scores["groups"]}[_key(row)]
    return Shown(
        id=sample.id,
        images=tuple(split.image(number) for number in sample.images),
        task=task_name(row["task"]),
        question=row.get("prompt", row["question"]),
        truth=row["truth"],
        prediction=row["prediction"],
        right=row["scores"][headline] == 1,
        before=None if before is None else before.rows[sample.id]["prediction"],
    )


def _key(group: dict[str, Any]) -> tuple[str, str]:
    return group["task"], group["answer_type"]
