"""Two evaluations side by side, question by question; anything not comparable is refused."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from etils import epath

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval.summary import Estimate, estimate

PREDICTIONS, SCORES = "predictions.jsonl", "scores.json"


@dataclass(frozen=True)
class Evaluation:
    """What a run of `biomedgpt eval` left in its folder."""

    folder: str
    scores: dict[str, Any]  # scores.json
    rows: dict[str, dict[str, Any]]  # predictions.jsonl by sample id


@dataclass(frozen=True)
class GroupDifference:
    """b minus a of one score, each question with itself."""

    task: str
    answer_type: str
    score: str
    n: int
    mean_a: float
    mean_b: float
    difference: Estimate


def load(folder: str) -> Evaluation:
    """Read scores.json and predictions.jsonl; RunError names the file and line that is missing or broken."""
    root = epath.Path(folder)
    summary = _parse(_read(root / SCORES), f"{root / SCORES}")
    if not isinstance(summary, dict) or not {"protocol", "data_hash"} <= summary.keys():
        raise RunError(f"{root / SCORES} has no protocol and data_hash; it was not written by `biomedgpt eval`")
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(_read(root / PREDICTIONS).splitlines(), 1):
        where = f"{root / PREDICTIONS}, line {number}"
        row = _parse(line, where)
        if not isinstance(row, dict) or not {"id", "task", "answer_type", "cluster", "scores"} <= row.keys():
            raise RunError(f"{where}: a row needs id, task, answer_type, cluster and scores. Run the evaluation again")
        if row["id"] in rows:
            raise RunError(f"{where}: sample {row['id']} stands there twice. Run the evaluation again")
        rows[row["id"]] = row
    return Evaluation(str(folder), summary, rows)


def compare(a: Evaluation, b: Evaluation) -> list[GroupDifference]:
    """Paired differences per group and score, with bootstrap intervals over images or cases.

    Raises RunError where protocol, data hash or sample ids differ: such numbers say nothing about each other.
    """
    for key, what in (("protocol", "metric protocols"), ("data_hash", "data")):
        if a.scores[key] != b.scores[key]:
            raise RunError(
                f"{a.folder} and {b.folder} cannot be compared: their {what} differ "
                f"({a.scores[key]} and {b.scores[key]}). Score both on the same data under the same protocol"
            )
    if a.rows.keys() != b.rows.keys():
        lone = sorted(a.rows.keys() ^ b.rows.keys())
        raise RunError(
            f"{a.folder} and {b.folder} cannot be compared: {len(lone)} samples are in one of them only, "
            f"for example {', '.join(lone[:3])}. Run both evaluations again on the whole split"
        )
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for sample, row in a.rows.items():
        groups[row["task"], row["answer_type"]].append(sample)
    return [
        _difference(key, name, [(a.rows[i], b.rows[i]) for i in ids])
        for key, ids in sorted(groups.items())
        for name in a.rows[ids[0]]["scores"]
    ]


def _difference(key: tuple[str, str], name: str, pairs: list[tuple[dict, dict]]) -> GroupDifference:
    values_a = [row["scores"][name] for row, _ in pairs]
    values_b = [row["scores"][name] for _, row in pairs]
    clusters = [row["cluster"] for row, _ in pairs]
    difference = estimate([y - x for x, y in zip(values_a, values_b, strict=True)], clusters)
    n = len(pairs)
    return GroupDifference(*key, name, n, sum(values_a) / n, sum(values_b) / n, difference)


def _read(path: epath.Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}. Name the folder that `biomedgpt eval` wrote") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(f"{where}: not JSON ({error}). Run the evaluation again") from error
