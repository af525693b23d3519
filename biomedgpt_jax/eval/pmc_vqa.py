"""`pmc-vqa/v1`: the answer counts as the choice whose letters it resembles most, as PMC-VQA's test script has it.

Source: xiaoman-zhang/PMC-VQA, the test script of MedVInT. Resemblance is `difflib.SequenceMatcher.ratio`, twice the
letters in common runs over all letters, with the choice first; capital letters differ from small ones.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from biomedgpt_jax.eval.protocol import Protocol, Scores


def pmc_vqa(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """accuracy: 1.0 where prediction and truth resemble the same of `choices` most.

    Raises ValueError where the question has no choices, or the truth resembles none.
    """
    choices = meta.get("choices") or ()
    if not choices:
        raise ValueError("it needs the choices of each question; score questions without choices under strict/v1")
    right = most_similar(choices, truth)
    if right is None:
        raise ValueError(f"the true answer {truth!r} shares no letter with any choice")
    return {"accuracy": float(most_similar(choices, prediction) == right)}


def most_similar(choices: Sequence[str], text: str) -> int | None:
    """The number of the choice that the text resembles most, the first among equals; None where it resembles none."""
    shares = [SequenceMatcher(None, choice, text).ratio() for choice in choices]
    best = max(shares)
    return shares.index(best) if best > 0 else None


PMC_VQA_V1 = Protocol(
    "pmc-vqa",
    "v1",
    pmc_vqa,
    {"open": "accuracy", "closed": "accuracy"},
    source="the test script of PMC-VQA (MedVInT)",
    faults=(
        "An answer that names no choice still counts as the one whose letters it happens to resemble.",
        "A negation or a longer sentence around a choice may resemble another choice more.",
        "The letter of a choice alone ('B') is compared as text, not looked up.",
        "Two choices that differ in capital letters only are told apart.",
    ),
)
