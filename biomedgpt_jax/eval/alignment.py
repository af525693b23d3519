"""Alignment accuracy: the share of outputs that obey the form which their instruction demands, right or wrong.

The definition is ours; the papers that report the figure do not define it. `data/instructions/form.py` says what obeys.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from biomedgpt_jax.eval.summary import ALIGNED, Answered, Estimate, cluster_labels, estimate


@dataclass(frozen=True)
class Alignment:
    """Of the outputs to instructions of one type."""

    type: str
    n: int
    aligned: Estimate


def alignment(answered: Sequence[Answered]) -> list[Alignment]:
    """By type of instruction, the most frequent first, and of all together where there are several; questions without
    an instruction are left out.
    """
    typed: defaultdict[str, list[Answered]] = defaultdict(list)
    for row in answered:
        if row.question.instruction is not None:
            typed[row.question.instruction.form.type].append(row)
    rows = [_of(name, found) for name, found in sorted(typed.items(), key=lambda each: (-len(each[1]), each[0]))]
    return rows if len(rows) < 2 else [*rows, _of("all", [row for found in typed.values() for row in found])]


def _of(name: str, rows: Sequence[Answered]) -> Alignment:
    clusters = cluster_labels([row.question for row in rows])
    return Alignment(name, len(rows), estimate([row.scores[ALIGNED] for row in rows], clusters))
