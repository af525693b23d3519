"""Beams and closed lists on a real BiomedGPT: its caches say what torch says that reads all words again each time."""

import numpy as np
import pytest

from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval.beam import Beams, beam_search
from biomedgpt_jax.eval.candidates import plan_walk, score_answers
from biomedgpt_jax.eval.decode import Limits, greedy
from biomedgpt_jax.eval.trie_decode import place_trie
from tests.eval.plain_search import following, log_softmax, plain_search
from tests.models.biomedgpt_rows import make, reference, rows, torch_logits

END, WORDS, LONGEST = 2, 300, 5
GIVEN = (4, 1, 6)  # words that the decoder is given in each row
BATCH = rows((9, 6, 7), GIVEN, image=64) | {"image_mask": np.array([True, False, True])}
PLACES = BATCH["tokens"].shape[1] + LONGEST
BARRED = range(250, WORDS)
ANSWERS = [[7, 8, END], [7, END], [90, 8, 8, END], [90, 8, 9, 10, END], [7, 8, 30, END], [5, 6, 7, END]]


@pytest.fixture(scope="module")
def it():
    return reference()


def after(it, row: int):
    """Words of a row, with the given ones -> logits of torch, nothing kept between calls."""

    def logits(words: list[int]) -> np.ndarray:
        batch = {name: BATCH[name][row : row + 1] for name in ("source_tokens", "source_mask", "images", "image_mask")}
        return torch_logits(it.theirs, batch | {"tokens": np.array([words])})[0, -1]

    return logits


def given(row: int) -> list[int]:
    return BATCH["tokens"][row, : GIVEN[row]].tolist()


@pytest.mark.parametrize("answers", [None, ANSWERS], ids=["free", "trie"])
def test_beams_behind_given_words_equal_torch(it, answers) -> None:
    model, params = make(it.config), it.params
    trie = answers and place_trie(build_trie(answers), stop_ids=(END,), vocab_size=WORDS)
    limits = Limits(LONGEST, (END,), PLACES, WORDS, (BARRED,))
    found = beam_search(model, params, BATCH, limits, Beams(3, 0.7, 3, 1), trie)
    for row in range(len(GIVEN)):
        plain = plain_search(
            after(it, row),
            given(row),
            end=END,
            beams=3,
            longest=LONGEST,
            length_penalty=0.7,
            no_repeat=3,
            shortest=1,
            barred=BARRED,
            answers=answers,
        )
        said = [words[:length].tolist() for words, length in zip(found.tokens[row], found.lengths[row], strict=True)]
        assert said == [words for words, _ in plain]
        np.testing.assert_allclose(found.scores[row], [score for _, score in plain], rtol=1e-5, atol=1e-5)


def test_scored_answers_equal_torch_and_greedy_takes_one_of_them(it) -> None:
    model, params = make(it.config), it.params
    walk = plan_walk(build_trie(ANSWERS), walkers=2, vocab_size=WORDS)
    found = score_answers(model, params, BATCH, walk, cache_length=PLACES)
    for row in range(len(GIVEN)):
        logits = after(it, row)
        for answer, score in zip(ANSWERS, found[row], strict=True):
            expected = 0.0
            for length, word in enumerate(answer):
                allowed = np.isin(np.arange(WORDS), following(ANSWERS, answer[:length]))
                expected += log_softmax(np.where(allowed, logits(given(row) + answer[:length]), -np.inf))[word]
            assert abs(score - expected) < 1e-5 * max(abs(expected), 1)
    trie = place_trie(build_trie(ANSWERS), stop_ids=(END,), vocab_size=WORDS)
    said = greedy(
        model, params, BATCH, max_new_tokens=LONGEST, stop_ids=(END,), cache_length=PLACES, vocab_limit=WORDS, trie=trie
    )
    assert all(
        [*words[:length], END] in ANSWERS for words, length in zip(said.tokens.tolist(), said.lengths, strict=True)
    )
