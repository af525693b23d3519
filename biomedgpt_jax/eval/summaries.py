"""`summary/v1`: ROUGE of summaries, as Google's rouge-score package gives it without stemming."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.eval.protocol import Protocol, Scores
from biomedgpt_jax.eval.rouge import rouge_l, rouge_n, rouge_words


def summary(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """rouge1, rouge2 and rouge_l (F1) of a summary against its one reference.

    Raises ValueError where the reference has no word of the letters a to z or digits.
    """
    said, true = rouge_words(prediction), rouge_words(truth)
    if not true:
        raise ValueError(f"the true text {truth!r} holds no word of a to z or digits to compare with")
    return {"rouge1": rouge_n(said, true, 1), "rouge2": rouge_n(said, true, 2), "rouge_l": rouge_l(said, true)}


SUMMARY_V1 = Protocol(
    "summary",
    "v1",
    summary,
    {"open": "rouge_l", "closed": "rouge_l"},
    source="Google's rouge-score without stemming, which the ROUGE of Hugging Face calls too",
    faults=(
        "Words of other scripts are not seen; accents and Greek letters cut a word in two.",
        "Wording is compared, not truth: a wrong number or a lost 'no' costs one word.",
        "Hugging Face's `rouge` reports the middle of a bootstrap, which differs from the mean in the last digits.",
        "ROUGE-L runs over the whole text, not line by line (rougeLsum).",
    ),
)
