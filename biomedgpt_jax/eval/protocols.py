"""Named, versioned ways to score an answer. A score is only comparable with one of the same protocol.

A change that could move any number makes a new version; a published version never changes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.eval import llava_med, metrics
from biomedgpt_jax.eval.together import Together, class_scores, report_scores, report_words, rouge_l

Scores = dict[str, float]


@dataclass(frozen=True)
class Protocol:
    """How one prediction is scored against one truth, and all of a group together."""

    name: str
    version: str
    score: Callable[[str, str, Mapping[str, Any]], Scores]  # (prediction, truth, meta) -> each score in 0..1
    headline: Mapping[str, str]  # answer type -> the score of `score` that stands for its questions in a table
    together: Together | None = None

    @property
    def id(self) -> str:
        return f"{self.name}/{self.version}"


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


def classify(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`classify/v1`: accuracy, 1.0 where prediction and truth are the same class, as `metrics.words` gives them.

    Of a group: macro_f1 and weighted_f1 over the classes that occur among its truths.
    """
    if not metrics.words(truth):
        raise ValueError(f"the true class {truth!r} holds no word to compare with")
    return {"accuracy": metrics.exact_match(prediction, truth)}


def report(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`report/v1`, for captions, reports and summaries: rouge_l. Of a group: bleu1 to bleu4, cider and cider_d.

    METEOR is left out: its dictionary cannot be had with a package.
    """
    if not report_words(truth):
        raise ValueError(f"the true text {truth!r} holds no word to compare with")
    return {"rouge_l": rouge_l(prediction, truth)}


def as_llava_med(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`llava-med/v1`: as LLaVA-Med published its scores, with their known faults; `eval/llava_med.py` says them.

    Open: exact_match, f1, precision, recall, bleu, bleu1, bleu2, bleu3; tables show recall. Closed: accuracy, of all
    closed questions (LLaVA-Med's main table; until December 2023 its code left wrong answers out). Their tenth score,
    "open accuracy", needs a list of candidates that was never released: see `with_candidates`.

    Raises ValueError where the answer type is another.
    """
    if meta["answer_type"] not in ("open", "closed"):
        raise ValueError(f"answer_type is {meta['answer_type']!r}, expected 'open' or 'closed'")
    if meta["answer_type"] == "closed":
        return {"accuracy": llava_med.closed_accuracy(prediction, truth)}
    return llava_med.open_scores(prediction, truth)


def with_candidates(candidates: Sequence[str]) -> Protocol:
    """`llava-med/v1` and its tenth score, open_accuracy, over a list of answers of one's own.

    The hash of the list is part of the version: with another list it is another protocol, and none is the published.
    """
    answers = tuple(candidates)

    def score(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
        scores = as_llava_med(prediction, truth, meta)
        if meta["answer_type"] == "open":
            scores["open_accuracy"] = llava_med.candidate_accuracy(prediction, truth, answers)
        return scores

    digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:12]
    return Protocol("llava-med", f"v1+candidates-{digest}", score, LLAVA_MED_V1.headline)


STRICT_V1 = Protocol("strict", "v1", strict, {"open": "accuracy", "closed": "accuracy"})
LLAVA_MED_V1 = Protocol("llava-med", "v1", as_llava_med, {"open": "recall", "closed": "accuracy"})
CLASSIFY_V1 = Protocol("classify", "v1", classify, {"open": "accuracy", "closed": "accuracy"}, class_scores)
REPORT_V1 = Protocol("report", "v1", report, {"open": "rouge_l", "closed": "rouge_l"}, report_scores)
PROTOCOLS = {protocol.id: protocol for protocol in (STRICT_V1, LLAVA_MED_V1, CLASSIFY_V1, REPORT_V1)}


def protocol(name: str) -> Protocol:
    """The protocol called "name/version"; UsageError names the known ones."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown metric protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
