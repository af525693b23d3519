"""`strict/v1`, our protocol for questions and answers: whole words, and no credit for saying both."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.eval import metrics
from biomedgpt_jax.eval.protocol import Protocol, Scores


def strict(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`strict/v1`: accuracy, exact_match, f1, precision, recall of one answer, each 0..1.

    `meta` holds `answer_type` ("open" or "closed"), `question`, and `choices` where the data set states them.
    Texts are compared as `metrics.words` gives them. `accuracy` is

    - open: the exact match;
    - closed, the truth is yes or no: the prediction's `metrics.yes_no` is the same;
    - closed, choices are stated (`choices`, else by the question itself) and the truth names one of them: the
      prediction names that one and no other;
    - any other closed question: the exact match.

    Raises ValueError where the answer type is another or the truth has no words.
    """
    if meta["answer_type"] not in ("open", "closed"):
        raise ValueError(f"answer_type is {meta['answer_type']!r}, expected 'open' or 'closed'")
    if not metrics.words(truth):
        raise ValueError(f"the true answer {truth!r} holds no word to compare with")
    exact = metrics.exact_match(prediction, truth)
    accuracy = exact if meta["answer_type"] == "open" else _closed(prediction, truth, meta, exact)
    return {"accuracy": accuracy, "exact_match": exact, **metrics.token_overlap(prediction, truth)._asdict()}


def _closed(prediction: str, truth: str, meta: Mapping[str, Any], exact: float) -> float:
    normal = metrics.normalise(truth)
    if normal in ("yes", "no"):
        return float(metrics.yes_no(prediction) == normal)
    choices = meta.get("choices") or metrics.stated_choices(meta.get("question", ""))
    right = metrics.chosen(truth, choices)
    if len(right) != 1:
        return exact
    return float(metrics.chosen(prediction, choices) == right)


STRICT_V1 = Protocol(
    "strict",
    "v1",
    strict,
    {"open": "accuracy", "closed": "accuracy"},
    source="ours",
    faults=(
        "An open answer in other words than the truth's is wrong, however right it is.",
        "A choice that the question states in several words counts as named by one of them.",
    ),
)
