"""Beam search as one would write it down: lists, no cache, all words read again for each step."""

from collections.abc import Callable, Sequence

import numpy as np

Logits = Callable[[list[int]], np.ndarray]  # all words so far, with the given ones -> [v]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def following(answers: Sequence[Sequence[int]], said: list[int]) -> list[int]:
    """The words that come after `said` in any of the answers."""
    return [answer[len(said)] for answer in answers if list(answer[: len(said)]) == said and len(answer) > len(said)]


def plain_search(
    logits_after: Logits,
    given: list[int],
    *,
    end: int,
    beams: int,
    longest: int,
    length_penalty: float = 0.0,
    no_repeat: int = 0,
    shortest: int = 0,
    exist: int | None = None,
    barred: Sequence[int] = (),
    answers: Sequence[Sequence[int]] | None = None,
) -> list[tuple[list[int], float]]:
    """Answers and scores, best first."""
    running: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], float]] = []
    for step in range(longest + 1):
        candidates = []
        for said, score in running:
            logits = logits_after(given + said).astype(np.float64)[:exist]
            if answers is not None:
                allowed = following(answers, said)
                logits = np.array([x if word in allowed else -np.inf for word, x in enumerate(logits)])
            text = given + said
            for word, gain in enumerate(log_softmax(logits)):
                ngram = [*text, word][len(text) + 1 - no_repeat :]
                seen = any(text[i : i + no_repeat] == ngram for i in range(len(text) - no_repeat + 1))
                if (
                    word in barred
                    or (no_repeat and len(text) + 1 >= no_repeat and seen)
                    or (word == end and step < shortest)
                    or (word != end and step == longest)
                    or gain == -np.inf
                ):
                    continue
                candidates.append((score + gain, said, word))
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * beams]
        for score, said, word in candidates[:beams]:
            if word == end and len(finished) < beams:
                finished.append((said, score / (len(said) + 1) ** length_penalty))
        running = [([*said, word], score) for score, said, word in candidates if word != end][:beams]
        if len(finished) == beams or not running:
            break
    return sorted(finished, key=lambda answer: -answer[1])
