"""The scores of a finished evaluation as rows of a table, also of all questions of a task together."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from biomedgpt_jax.eval.compare import Evaluation
from biomedgpt_jax.eval.published import ALL, Measured
from biomedgpt_jax.eval.summary import estimate


@dataclass(frozen=True)
class Origin:
    """What the scores are of. `results`: the folder of the evaluation; `part`: only some questions were asked."""

    results: str
    data: str
    split: str
    part: bool


def measured(evaluation: Evaluation, origin: Origin) -> list[Measured]:
    """Every score of every group, the headline of a group first.

    Where a task has several groups with one headline, its questions are also scored together, as "all".
    """
    tasks: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for group in evaluation.scores["groups"]:
        tasks[group["task"]].append(group)
    rows = []
    for task, groups in tasks.items():
        for group in groups:
            baseline = None if group["baseline"] is None else group["baseline"]["scores"]
            rows += [
                Measured(
                    **_shared(evaluation, origin),
                    task=task,
                    questions=group["answer_type"],
                    whole=len(groups) == 1,
                    n=group["n"],
                    score=name,
                    headline=name == group["headline"],
                    **found,
                    baseline=None if baseline is None else baseline.get(name),
                    truncated=group["truncated"],
                )
                for name, found in sorted(group["scores"].items(), key=lambda each: each[0] != group["headline"])
            ]
        if len(groups) > 1 and len({group["headline"] for group in groups}) == 1:
            rows.append(_together(evaluation, origin, task, groups))
    return rows


def _together(evaluation: Evaluation, origin: Origin, task: str, groups: list[dict[str, Any]]) -> Measured:
    name = groups[0]["headline"]
    asked = [row for row in evaluation.rows.values() if row["task"] == task]
    found = estimate([row["scores"][name] for row in asked], [row["cluster"] for row in asked])
    baselines = [group["n"] * group["baseline"]["scores"][name] for group in groups if group["baseline"] is not None]
    return Measured(
        **_shared(evaluation, origin),
        task=task,
        questions=ALL,
        whole=True,
        n=len(asked),
        score=name,
        headline=True,
        **asdict(found),
        baseline=sum(baselines) / len(asked) if len(baselines) == len(groups) else None,
        truncated=sum(group["truncated"] for group in groups),
    )


def _shared(evaluation: Evaluation, origin: Origin) -> dict[str, Any]:
    reworded = bool(evaluation.scores["facts"].get("instructions"))
    return {**asdict(origin), "protocol": evaluation.scores["protocol"], "reworded": reworded}
