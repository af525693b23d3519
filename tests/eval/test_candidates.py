"""Scores of a closed list against asking for every word of every answer by itself."""

import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval.candidates import plan_walk, score_answers
from tests.eval.plain_search import following, log_softmax
from tests.eval.toy_pairs import END, toy_batch, toy_logits, toy_model, toy_params

WORDS = 9
SOURCES, GIVEN = [[4, 5], [3]], [[0], [0, 7, 7]]
RNG = np.random.default_rng(0)
MANY = [[*words, END] for words in {tuple(RNG.integers(3, WORDS, length).tolist()) for length in (1, 2, 3, 4) * 12}]
LISTS = {
    "many": MANY,
    "one": [[5, 4, END]],
    "yes and no": [[5, END], [6, END]],
    "one parting, far down": [[5, 5, 4, 3, END], [5, 5, 4, END]],
}
MODEL, PARAMS = toy_model(), toy_params(WORDS, 0)


def brute_force(source: list[int], given: list[int], answers: list[list[int]]) -> list[float]:
    def score(answer: list[int]) -> float:
        total = 0.0
        for length, word in enumerate(answer):
            allowed = following(answers, answer[:length])
            logits = toy_logits(PARAMS, source, given + answer[:length])
            outside = np.where(np.isin(np.arange(WORDS), allowed), logits, -np.inf)
            total += log_softmax(outside)[word]
        return total

    return [score(answer) for answer in answers]


@pytest.mark.parametrize(
    ("name", "walkers"), [("many", 1), ("many", 5), *((name, 3) for name in LISTS if name != "many")]
)
def test_scores_equal_brute_force(name: str, walkers: int) -> None:
    answers = LISTS[name]
    walk = plan_walk(build_trie(answers), walkers=walkers, vocab_size=WORDS)
    batch = toy_batch(SOURCES, GIVEN)
    found = score_answers(MODEL, PARAMS, batch, walk, cache_length=batch["tokens"].shape[1] + walk.depth)
    expected = [brute_force(source, given, answers) for source, given in zip(SOURCES, GIVEN, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)
    partings = {tuple(a[:i]) for a in answers for i in range(1, len(a)) if len(set(following(answers, a[:i]))) > 1}
    assert walk.depth == max(map(len, partings), default=0)
    if walkers == 1:  # nothing is read twice, and nothing that says nothing
        assert len(walk.words) == len({path[:i] for path in partings for i in range(1, len(path) + 1)})
        assert len(walk.words) < sum(map(len, answers)) / 2


def test_a_short_cache_and_broken_weights_are_refused() -> None:
    walk, batch = plan_walk(build_trie(MANY), walkers=2, vocab_size=WORDS), toy_batch(SOURCES, GIVEN)
    places = batch["tokens"].shape[1] + walk.depth
    with pytest.raises(RunError, match=f"need {places}, cache_length is {places - 1}"):
        score_answers(MODEL, PARAMS, batch, walk, cache_length=places - 1)
    broken = {
        **PARAMS,
        "embed": PARAMS["embed"] + np.where(np.arange(WORDS) == 3, np.nan, 0)[:, None].astype(np.float32),
    }
    with pytest.raises(RunError, match=r"NaN\) in rows \[0, 1\]"):
        score_answers(MODEL, broken, batch, walk, cache_length=places)
    with pytest.raises(RunError, match="outside the vocabulary of 6"):
        plan_walk(build_trie(MANY), walkers=2, vocab_size=6)
