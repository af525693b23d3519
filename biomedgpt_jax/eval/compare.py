"""Two evaluations side by side, question by question; anything not comparable is refused."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval.protocol import GroupScores, Protocol, Said
from biomedgpt_jax.eval.protocols import PROTOCOLS
from biomedgpt_jax.eval.summary import Estimate, estimate_of, mean_of, statistics

PREDICTIONS, SCORES = "predictions.jsonl", "scores.json"
NEEDED = ("id", "task", "answer_type", "cluster", "truth", "prediction", "scores")  # of a row


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
        if not isinstance(row, dict) or not set(NEEDED) <= row.keys():
            raise RunError(f"{where}: a row needs {', '.join(NEEDED)}. Run the evaluation again")
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
    # A protocol over a list of candidates is not among them; it has no scores of a group.
    protocol = PROTOCOLS.get(a.scores["protocol"])
    return [
        difference
        for key, ids in sorted(groups.items())
        for difference in _differences(key, protocol, [a.rows[i] for i in ids], [b.rows[i] for i in ids])
    ]


def _differences(
    key: tuple[str, str], protocol: Protocol | None, a: Sequence[dict], b: Sequence[dict]
) -> list[GroupDifference]:
    ours, theirs = (_statistics(protocol, rows).statistics for rows in (a, b))
    clusters, ones = [row["cluster"] for row in a], np.ones(len(a))
    return [
        GroupDifference(
            *key,
            name,
            len(a),
            first(ones),
            second(ones),
            estimate_of(lambda weights, first=first, second=second: second(weights) - first(weights), clusters),
        )
        for name, first in ours.items()
        if (second := theirs.get(name))
    ]


def _statistics(protocol: Protocol | None, rows: Sequence[dict]) -> GroupScores:
    scores = [row["scores"] for row in rows]
    if protocol is None:
        return GroupScores({name: mean_of([each[name] for each in scores]) for name in scores[0]}, {})
    said = Said(
        [row.get("answer", row["prediction"]) for row in rows],
        [row["truth"] for row in rows],
        [row.get("class_scores") for row in rows],
        [row.get("classes", ()) for row in rows],
    )
    return statistics(protocol, scores, said)


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
