"""The tables of an evaluation: by type of question, by class, what was left out, and all scores."""

from collections.abc import Iterator
from typing import Any

from biomedgpt_jax.eval.compare import Evaluation
from biomedgpt_jax.report.content import Table, percent

TASK_NAMES = {"organ": "body part shown", "vqa": "the data set's own", "modality": "modality"}
Row = tuple[str, ...]


def task_name(task: str) -> str:
    return TASK_NAMES.get(task, task)


def part_tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """By type of question, by class, and what could not be had; each only where there is something to say."""
    return tuple(
        Table(title, columns, rows)
        for title, columns, of_group in (
            ("By type of question", ("questions", "type", "n", "score", "mean", "95% interval"), _types),
            ("By class", ("questions", "class", "n", "said", "precision", "recall", "F1"), _classes),
            ("Scores left out", ("questions", "score", "why"), _left_out),
        )
        if (rows := tuple(row for group in evaluation.scores["groups"] for row in of_group(group)))
    )


def all_scores(evaluation: Evaluation) -> Table:
    rows = []
    for group in evaluation.scores["groups"]:
        for name, score in group["scores"].items():
            baseline = None if group["baseline"] is None else group["baseline"]["scores"].get(name)
            rows.append(
                (_asked(group), str(group["n"]), name, percent(score["mean"]), _range(score), percent(baseline))
            )
    columns = ("questions", "n", "score", "mean", "95% interval", "majority answer")
    return Table(f"All scores of {evaluation.scores['protocol']}", columns, tuple(rows))


def _types(group: dict[str, Any]) -> Iterator[Row]:
    for part in group["question_types"]:
        score = part["headline"]
        yield (
            _asked(group),
            part["question_type"],
            str(part["n"]),
            group["headline"],
            percent(score["mean"]),
            _range(score),
        )


def _classes(group: dict[str, Any]) -> Iterator[Row]:
    for each in group["classes"]:
        counts = str(each["n"]), str(each["said"])
        yield (_asked(group), each["name"], *counts, *(percent(each[name]) for name in ("precision", "recall", "f1")))


def _left_out(group: dict[str, Any]) -> Iterator[Row]:
    for name, why in group["left_out"].items():
        yield _asked(group), name, why


def _asked(group: dict[str, Any]) -> str:
    return f"{task_name(group['task'])}, {group['answer_type']}"


def _range(score: dict[str, Any]) -> str:
    return "" if score["low"] is None else f"{percent(score['low'])} to {percent(score['high'])}"
