"""The text rules of LLaVA-Med's published evaluation, with its faults, so that tables of papers can be compared.

Llama3-Med reports by the same rules. Where one looks wrong ("normal" answers "no"), it is as published; `strict/v1`
is the protocol without these faults. Rules: microsoft/LLaVA-Med v1.0, llava/eval/run_eval.py and eval_metrics.
"""

import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from biomedgpt_jax.eval.protocol import Protocol, Scores

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_MOST_STOPS = 32  # a flag of `re` (UNICODE is 32) stands where the number of replacements belongs
_ARTICLES = ("a", "an", "the")
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
# Each is also recognised with one of its apostrophes missing.
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's "
    "there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've"
)
_CONTRACTIONS = {
    word[:n] + word[n + 1 :]: word for word in _CONTRACTED.split() for n, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the published table has this one the wrong way round


def as_llava_med(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`llava-med/v1`: as LLaVA-Med published its scores, with their known faults.

    Open: exact_match, f1, precision, recall, bleu, bleu1, bleu2, bleu3; tables show recall. Closed: accuracy, of all
    closed questions (LLaVA-Med's main table; until December 2023 its code left wrong answers out). Their tenth score,
    "open accuracy", needs a list of candidates that was never released: see `with_candidates`.

    Raises ValueError where the answer type is another.
    """
    if meta["answer_type"] not in ("open", "closed"):
        raise ValueError(f"answer_type is {meta['answer_type']!r}, expected 'open' or 'closed'")
    if meta["answer_type"] == "closed":
        return {"accuracy": closed_accuracy(prediction, truth)}
    return open_scores(prediction, truth)


def with_candidates(candidates: Sequence[str]) -> Protocol:
    """`llava-med/v1` and its tenth score, open_accuracy, over a list of answers of one's own.

    The hash of the list is part of the version: with another list it is another protocol, and none is the published.
    """
    answers = tuple(candidates)

    def score(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
        scores = as_llava_med(prediction, truth, meta)
        if meta["answer_type"] == "open":
            scores["open_accuracy"] = candidate_accuracy(prediction, truth, answers)
        return scores

    digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:12]
    return replace(LLAVA_MED_V1, version=f"v1+candidates-{digest}", score=score)


def normalise(text: str) -> str:
    """The text as LLaVA-Med compares it. In this order:

    1. Lower case.
    2. Each mark of `_MARKS` is deleted where it touches a space anywhere in the text, or where the text has a comma
       between digits; otherwise it becomes a space. Colons, apostrophes and % stay.
    3. The first 32 full stops that no digit follows are deleted.
    4. "none" and "zero" to "ten" become digits; "a", "an", "the" go; apostrophes are put back ("dont" -> "don't").
    5. Single spaces, and no comma.
    """
    text = text.lower()
    deletes_all = _DIGIT_COMMA_DIGIT.search(text)
    changed = text
    for mark in _MARKS:
        touches_space = f"{mark} " in text or f" {mark}" in text
        changed = changed.replace(mark, "" if deletes_all or touches_space else " ")
    words = [_NUMBERS.get(word, word) for word in _STOP.sub("", changed, count=_MOST_STOPS).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES).replace(",", "")


def open_scores(prediction: str, truth: str) -> dict[str, float]:
    """The scores of an answer to an open question, each 0..1. Published tables show `recall` as "Open".

    exact_match: distinct true words that were said, over all words said: a precision, and no equality.
    f1, precision, recall: over the union of words; a shared word counts as often as the *prediction* has it.
    bleu: of 1 to 4 words; bleu1, bleu2, bleu3: of runs of 1, 2 or 3 words alone.
    """
    said, true = normalise(prediction).split(), normalise(truth).split()
    # They normalise once more for the overlap; it matters where more than 32 full stops were.
    said_again, true_again = (Counter(normalise(" ".join(words)).split()) for words in (said, true))
    f1, precision, recall = _overlap(said_again, true_again)
    return {
        "exact_match": len(said_again.keys() & true_again.keys()) / said_again.total() if said_again else 0.0,
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "bleu": bleu(said, true, (0.25, 0.25, 0.25, 0.25)),
        "bleu1": bleu(said, true, (1.0,)),
        "bleu2": bleu(said, true, (0.0, 1.0)),
        "bleu3": bleu(said, true, (0.0, 0.0, 1.0)),
    }


def closed_accuracy(prediction: str, truth: str) -> float:
    """1.0 where the letters "yes" or "no" occur in the prediction, and the letters of the truth do too."""
    said, true = normalise(prediction), normalise(truth)
    return float(("yes" in said or "no" in said) and true in said)


def candidate_accuracy(prediction: str, truth: str, candidates: Iterable[str]) -> float:
    """1.0 where the truth is the candidate with the largest share of its distinct words in the prediction.

    Among equals the first counts. The published list of candidates was never released, so that no published number
    of it can be repeated.
    """
    said = set(normalise(prediction).split())

    def share(candidate: str) -> float:
        words = set(candidate.split())
        return len(words & said) / len(words) if words else 0.0

    return float(max(map(normalise, candidates), key=share) == normalise(truth))


def bleu(said: Sequence[str], true: Sequence[str], weights: Sequence[float]) -> float:
    """BLEU of one sentence against one reference, without smoothing, as nltk's `sentence_bleu` gives it.

    `weights` are those of runs of 1, 2, ... words. A run length without a match counts as the smallest positive
    float instead of zero, unless no single word matches.
    """
    if not set(said) & set(true):
        return 0.0
    logs = [weight * math.log(_shared_runs(said, true, n) or sys.float_info.min) for n, weight in enumerate(weights, 1)]
    brevity = 1.0 if len(said) > len(true) else math.exp(1 - len(true) / len(said))
    return brevity * math.exp(math.fsum(logs))


def _shared_runs(said: Sequence[str], true: Sequence[str], n: int) -> float:
    """The share of the runs of `n` words said that the truth has, each as often as there."""
    runs, wanted = (Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for words in (said, true))
    return (runs & wanted).total() / max(1, runs.total())


def _overlap(said: Counter[str], true: Counter[str]) -> tuple[float, float, float]:
    shared = sum(count for word, count in said.items() if word in true)
    if not shared:
        return 0.0, 0.0, 0.0
    missed = sum(count for word, count in true.items() if word not in said)
    precision, recall = shared / said.total(), shared / (shared + missed)
    return 2 * precision * recall / (precision + recall), precision, recall


LLAVA_MED_V1 = Protocol(
    "llava-med",
    "v1",
    as_llava_med,
    {"open": "recall", "closed": "accuracy"},
    source="LLaVA-Med v1.0, llava/eval/run_eval.py; Llama3-Med uses it too",
    faults=(
        "Closed: a hit where the letters of yes or no occur anywhere ('normal', 'note') and those of the truth do.",
        "An answer that says yes and no always hits; one to a question that states other choices hits by chance alone.",
        "Open: recall rewards long answers; 'exact match' is a precision of words, not equality.",
        "BLEU is of single sentences without smoothing, so that short answers have none.",
    ),
)
