"""The scores of BiomedGPT's released scripts, with their faults, so that its tables can be compared.

Three protocols: answers (visual questions, classes, inference), captions and summaries. `strict/v1`, `classify/v1`,
`caption/v1` and `summary/v1` are those without these faults. Rules: taokz/BiomedGPT, evaluation of its tasks.
"""

import re
from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.eval.classes import class_scores
from biomedgpt_jax.eval.ngrams import ngram_scores
from biomedgpt_jax.eval.protocol import GroupScores, Protocol, Said, Scores
from biomedgpt_jax.eval.rouge import rouge_l
from biomedgpt_jax.eval.summaries import summary

_DROPPED = re.compile(r"""["'/\\.,?;*!%^&_+():<=>@\[\]{}]""")  # no hyphen


def exact(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`biomedgpt/v1`: accuracy is equality of the whole text, lower case, without spaces at its ends.

    exact_case: the same where capital letters count, as its scripts have it for SLAKE and PathVQA (VQA-RAD is lower
    case in its files). Of a group: weighted_f1 over the true answers.
    """
    said, true = prediction.strip(), truth.strip()
    return {"accuracy": float(said.lower() == true.lower()), "exact_case": float(said == true)}


def weighted_f1(said: Said) -> GroupScores:
    scores = class_scores(said.predictions, said.truths, lambda text: text.strip().lower())
    return GroupScores({"weighted_f1": scores["weighted_f1"]}, {})


def caption(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`biomedgpt-caption/v1`: rouge_l of the cleaned words as pycocoevalcap has it. Of a group: cider_d.

    Raises ValueError where the truth has no word.
    """
    if not cleaned(truth):
        raise ValueError(f"the true text {truth!r} holds no word to compare with")
    return {"rouge_l": rouge_l(cleaned(prediction), cleaned(truth), beta=1.2)}


def cleaned(text: str) -> list[str]:
    """The words that it compares of a caption: lower case, marks deleted, not replaced; hyphens stay."""
    return _DROPPED.sub("", text.lower()).split()


def caption_group(said: Said) -> GroupScores:
    words = [cleaned(text) for text in said.predictions], [cleaned(text) for text in said.truths]
    scores = ngram_scores(*words)
    if "cider_d" not in scores:
        return GroupScores({}, {"cider_d": "one text alone has none"})
    return GroupScores({"cider_d": scores["cider_d"]}, {})


def abstract(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`biomedgpt-summary/v1`: `summary/v1` of the lower-case texts, with every 1 of the answer written as #.

    Raises ValueError where the truth has no word.
    """
    return summary(prediction.lower().replace("1", "#"), truth.lower(), meta)


BIOMEDGPT_V1 = Protocol(
    "biomedgpt",
    "v1",
    exact,
    {"open": "accuracy", "closed": "accuracy"},
    source="BiomedGPT's VQA, classification and inference scripts",
    faults=(
        "One string must be the other: an open answer in other words, or with a full stop, is wrong.",
        "Whether capital letters count depends on the data set's files; accuracy ignores them, exact_case does not.",
        "Published numbers choose among a list of answers that, for VQA-RAD, holds those of the test split, and show "
        "the model a hint (organ, location) from the data set's own labels.",
        "Weighted F1 takes each distinct answer for a class.",
    ),
    together=weighted_f1,
)
BIOMEDGPT_CAPTION_V1 = Protocol(
    "biomedgpt-caption",
    "v1",
    caption,
    {"open": "rouge_l", "closed": "rouge_l"},
    source="BiomedGPT's captioning script",
    faults=(
        "Marks are deleted, not replaced: '2.5' is '25' and 'and/or' is 'andor'.",
        "Captions of one image collapse to the last in the script; here each counts.",
        "METEOR is in the paper and not computed by the script.",
        "The script cuts answers at 32 tokens; set max_new_tokens to compare.",
    ),
    together=caption_group,
)
BIOMEDGPT_SUMMARY_V1 = Protocol(
    "biomedgpt-summary",
    "v1",
    abstract,
    {"open": "rouge_l", "closed": "rouge_l"},
    source="BiomedGPT's summarisation script, which took it from Gigaword's",
    faults=(
        "Every digit 1 of an answer becomes #, but not of a reference: what holds a 1 cannot match.",
        "The script reports the middle of a bootstrap, here it is the mean.",
    ),
)
