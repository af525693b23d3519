"""The answers of an earlier evaluation under another protocol, without asking the model again."""

from collections.abc import Sequence

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval.compare import Evaluation
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.eval.questions import Question, data_hash
from biomedgpt_jax.eval.summary import Answered, score


def rescored(evaluation: Evaluation, questions: Sequence[Question], protocol: Protocol) -> list[Answered]:
    """What was answered to `questions` then, scored by `protocol`.

    Raises:
        RunError: the evaluation is of other data, or its predictions are not complete.
    """
    found, expected = evaluation.scores["data_hash"], data_hash(questions)
    if found != expected:
        raise RunError(
            f"{evaluation.folder} was answered on other data: its data hash is {found}, that of the questions "
            f"{expected}. Name the data and the split of that evaluation, or run a new one."
        )
    rows = evaluation.rows
    missing = [q.id for q in questions if not {"prediction", "truncated"} <= rows.get(q.id, {}).keys()]
    if missing:
        raise RunError(
            f"{evaluation.folder}: {len(missing)} of {len(questions)} questions have no prediction, for example "
            f"{missing[0]}. Run the evaluation again."
        )
    return [
        Answered(q, row["prediction"], row["truncated"], score(protocol, q, row["prediction"]), row.get("class_scores"))
        for q in questions
        for row in [rows[q.id]]
    ]
