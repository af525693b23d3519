"""The protocols of captions and reports: ours, and that of pycocoevalcap, which papers on captions use."""

import re
from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.eval.meteor import meteor
from biomedgpt_jax.eval.ngrams import ngram_scores
from biomedgpt_jax.eval.protocol import GroupScores, Protocol, Said, Scores
from biomedgpt_jax.eval.ptb import caption_words
from biomedgpt_jax.eval.rouge import rouge_l

_WORD = re.compile(r"[^\W_]+")
_COCO_BETA = 1.2  # of ROUGE-L in pycocoevalcap
_ALONE = "one text alone has none, because nothing in it is rarer than anything else"


def report_words(text: str) -> list[str]:
    """The words of `report/v1`: runs of letters and digits, lower case."""
    return _WORD.findall(text.lower())


def report(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`report/v1`, for captions, reports and summaries: rouge_l. Of a group: bleu1 to bleu4, cider and cider_d.

    It has no METEOR; `caption/v1` has.
    """
    said, true = report_words(prediction), report_words(truth)
    if not true:
        raise ValueError(f"the true text {truth!r} holds no word to compare with")
    return {"rouge_l": rouge_l(said, true)}


def report_group(said: Said) -> GroupScores:
    words = [report_words(text) for text in said.predictions], [report_words(text) for text in said.truths]
    return _with_reason(ngram_scores(*words), {})


def caption(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`caption/v1`: rouge_l. Of a group: bleu1 to bleu4, cider, cider_d and, where there is Java, meteor.

    As pycocoevalcap on the words of `caption_words`. What its users call CIDEr is cider_d here, a tenth of it.

    Raises ValueError where the truth has no word.
    """
    true = caption_words(truth)
    if not true:
        raise ValueError(f"the true text {truth!r} holds no word to compare with")
    return {"rouge_l": rouge_l(caption_words(prediction), true, _COCO_BETA)}


def caption_group(said: Said) -> GroupScores:
    words = [caption_words(text) for text in said.predictions], [caption_words(text) for text in said.truths]
    scores, found = ngram_scores(*words), meteor(*words)
    if isinstance(found, str):
        return _with_reason(scores, {"meteor": found})
    return _with_reason({**scores, "meteor": found}, {})


def _with_reason(scores: Mapping[str, Any], left_out: Mapping[str, str]) -> GroupScores:
    alone = {} if "cider" in scores else {"cider": _ALONE, "cider_d": _ALONE}
    return GroupScores(scores, {**left_out, **alone})


REPORT_V1 = Protocol(
    "report",
    "v1",
    report,
    {"open": "rouge_l", "closed": "rouge_l"},
    source="ours; BLEU and CIDEr as pycocoevalcap, ROUGE-L as rouge-score, on words of letters and digits",
    faults=("Wording is compared, not truth: a wrong side or a lost 'no' costs one word.",),
    together=report_group,
)
CAPTION_V1 = Protocol(
    "caption",
    "v1",
    caption,
    {"open": "rouge_l", "closed": "rouge_l"},
    source="pycocoevalcap, with its words made by rules of ours (eval/ptb.py) in place of its Java tokenizer",
    faults=(
        "Wording is compared, not truth: a wrong side or a lost 'no' costs one word.",
        "CIDEr weighs words by the references of the split that is scored, so that numbers of other splits, or of a "
        "part, cannot be compared. What papers call CIDEr is cider_d here, times ten.",
        "Brackets count as words ('-lrb-'), because pycocoevalcap drops them in capital letters only.",
        "Each picture has one reference; published numbers of some sets have several.",
        "Rare texts (addresses, initials at the end of a sentence) are cut otherwise than by the Java tokenizer.",
    ),
    together=caption_group,
)
