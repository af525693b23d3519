"""The scores of a finished evaluation as rows of a table, also of all questions of a task together."""

from collections import defaultdict
from typing import Any

from biomedgpt_jax.eval.compare import Evaluation
from biomedgpt_jax.eval.published import ALL, Measured
from biomedgpt_jax.eval.summary import estimate


def measured(evaluation: Evaluation, data: str, split: str, *, part: bool) -> list[Measured]:
    """Every score of every group, the headline of a group first.

    Where a task has several groups with one headline, its questions are also scored together, as "all".

    Args:
        part: only some questions of the split were asked.
    """
    scores = evaluation.scores
    tasks: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for group in scores["groups"]:
        tasks[group["task"]].append(group)
    rows = []
    for task, groups in tasks.items():
        for group in groups:
            names = sorted(group["scores"], key=lambda name: name != group["headline"])
            rows += [
                Measured(
                    data=data,
                    split=split,
                    protocol=scores["protocol"],
                    task=task,
                    questions=group["answer_type"],
                    whole=len(groups) == 1,
                    n=group["n"],
                    part=part,
                    score=name,
                    headline=name == group["headline"],
                    **group["scores"][name],
                    baseline=None if group["baseline"] is None else group["baseline"]["scores"].get(name),
                    truncated=group["truncated"],
                )
                for name in names
            ]
        if len(groups) > 1 and len({group["headline"] for group in groups}) == 1:
            rows.append(_together(evaluation, data, split, task, groups, part))
    return rows


def _together(
    evaluation: Evaluation, data: str, split: str, task: str, groups: list[dict[str, Any]], part: bool
) -> Measured:
    name = groups[0]["headline"]
    asked = [row for row in evaluation.rows.values() if row["task"] == task]
    found = estimate([row["scores"][name] for row in asked], [row["cluster"] for row in asked])
    baselines = [group["baseline"] and group["baseline"]["scores"].get(name) for group in groups]
    weighted = sum(group["n"] * (value or 0.0) for group, value in zip(groups, baselines, strict=True)) / len(asked)
    return Measured(
        data=data,
        split=split,
        protocol=evaluation.scores["protocol"],
        task=task,
        questions=ALL,
        whole=True,
        n=len(asked),
        part=part,
        score=name,
        headline=True,
        mean=found.mean,
        low=found.low,
        high=found.high,
        baseline=None if None in baselines else weighted,
        truncated=sum(group["truncated"] for group in groups),
    )
