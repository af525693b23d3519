"""Beam search against a plain one that reads all words again for each step, token for token, score for score."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval.beam import Answers, Beams, beam_search
from biomedgpt_jax.eval.decode import Limits, greedy
from biomedgpt_jax.eval.trie_decode import place_trie
from tests.eval.plain_search import plain_search
from tests.eval.toy_pairs import END, toy_batch, toy_logits, toy_model, toy_params

WORDS, EXIST = 12, 11  # one more only pads the head
SOURCES = [[4, 5], [3], [9, 8, 3], [5, 5]]
GIVEN = [[0], [0, 7, 7], [0, 6, 5, 6, 5], [0, 3]]
ANSWERS = [[5, 4, END], [5, END], [9, 4, 5, END], [9, 4, 6, 6, END], [3, END], [10, 10, 10, END]]
LONGEST = 7
MODEL = toy_model()


def searched(seed: int, beams: Beams, *, longest=LONGEST, barred=(), trie=None) -> Answers:
    batch = toy_batch(SOURCES, GIVEN)
    limits = Limits(longest, (END,), batch["tokens"].shape[1] + longest, EXIST, barred)
    return beam_search(MODEL, toy_params(WORDS, seed), batch, limits, beams, trie)


def compare(found: Answers, seed: int, **options) -> None:
    params = toy_params(WORDS, seed)
    for row, (source, given) in enumerate(zip(SOURCES, GIVEN, strict=True)):
        plain = plain_search(
            lambda words, s=source: toy_logits(params, s, words), given, end=END, exist=EXIST, **options
        )
        said = [words[:length].tolist() for words, length in zip(found.tokens[row], found.lengths[row], strict=True)]
        assert said[: len(plain)] == [words for words, _ in plain]
        np.testing.assert_allclose(found.scores[row, : len(plain)], [score for _, score in plain], rtol=1e-5, atol=1e-5)
        assert (found.scores[row, len(plain) :] == -np.inf).all() and plain
        assert not any(found.tokens[row, i, length:].any() for i, length in enumerate(found.lengths[row]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "beams",
    [
        Beams(1, 0.0, 0, 0),
        Beams(5, 0.7, 3, 0),
        Beams(4, 0.0, 1, 3),
        Beams(3, 2.0, 2, LONGEST),
    ],
    ids=str,
)
def test_every_option_equals_the_plain_search(seed: int, beams: Beams) -> None:
    options = {"length_penalty": beams.length_penalty, "no_repeat": beams.no_repeat, "shortest": beams.min_length}
    compare(searched(seed, beams), seed, beams=beams.beams, longest=LONGEST, **options)


def test_barred_words_keep_their_share_of_the_probability() -> None:
    beams, barred = Beams(3, 1.0, 0, 1), (range(1, 2), range(7, 10))
    found = searched(0, beams, barred=barred)
    compare(found, 0, beams=3, longest=LONGEST, length_penalty=1.0, shortest=1, barred=[1, 7, 8, 9])
    assert not np.isin(found.tokens, [1, 7, 8, 9]).any()


@pytest.mark.parametrize("beams", [Beams(3, 0.7, 0, 1), Beams(8, 0.0, 0, 0)], ids=str)
def test_a_trie_leaves_only_its_answers(beams: Beams) -> None:
    trie = place_trie(build_trie(ANSWERS), stop_ids=(END,), vocab_size=EXIST)
    found = searched(1, beams, trie=trie)
    options = {"length_penalty": beams.length_penalty, "shortest": beams.min_length, "answers": ANSWERS}
    compare(found, 1, beams=beams.beams, longest=LONGEST, **options)
    if beams.beams > len(ANSWERS):  # all are found, whose probabilities then sum to 1
        np.testing.assert_allclose(np.exp(found.scores).sum(1), 1, rtol=1e-5)


LISTS = {
    "one": [[5, 7, 4, END]],
    "each begins the next": [[7, END], [7, 5, END], [7, 5, 7, END], [7, 5, 7, 3, END], [6, 5, END]],
}


@pytest.mark.parametrize(
    ("name", "beams"), [("one", Beams(3, 0.7, 2, 2)), ("each begins the next", Beams(4, 0.7, 2, 1))]
)
def test_all_options_hold_together(name: str, beams: Beams) -> None:
    """Behind [0, 7, 7] and [0, 6, 5, 6, 5], two words in a row of which some answers say once more."""
    answers, barred = LISTS[name], (range(3, 4),)
    trie = place_trie(build_trie(answers), stop_ids=(END,), vocab_size=EXIST)
    found = searched(2, beams, barred=barred, trie=trie)
    options = {"length_penalty": beams.length_penalty, "no_repeat": beams.no_repeat, "shortest": beams.min_length}
    compare(found, 2, beams=beams.beams, longest=LONGEST, answers=answers, barred=[3], **options)


def test_the_loop_ends_when_each_source_has_its_answers() -> None:
    """The second word is the end for sure, and what follows it is no number."""

    def ending(params):
        step = MODEL.decode(params)

        def one(words, cache):
            logits, after = step(words, cache)
            return jnp.where(cache.lengths[:, None] > 1, jnp.nan, logits.at[:, END].add(100)), after

        return one

    batch = toy_batch(SOURCES, [[0]] * len(SOURCES))
    limits = Limits(LONGEST, (END,), batch["tokens"].shape[1] + LONGEST, EXIST)
    found = beam_search(replace(MODEL, decode=ending), toy_params(WORDS, 0), batch, limits, Beams(3, 0.0, 0, 1))
    assert found.lengths.tolist() == [[1] * 3] * len(SOURCES)


def test_one_beam_is_greedy() -> None:
    batch, params = toy_batch(SOURCES, GIVEN), toy_params(WORDS, 5)
    said = greedy(
        MODEL,
        params,
        batch,
        max_new_tokens=LONGEST,
        stop_ids=(END,),
        cache_length=batch["tokens"].shape[1] + LONGEST,
        vocab_limit=EXIST,
    )
    best = searched(5, Beams(1, 0.0, 0, 0)).best
    assert best.tokens.tolist() == said.tokens.tolist() and best.lengths.tolist() == said.lengths.tolist()
    assert len(set(said.lengths.tolist())) > 1


def test_errors_say_what_is_wrong() -> None:
    batch, params, beams = toy_batch(SOURCES, GIVEN), toy_params(WORDS, 0), Beams(2, 0.0, 0, 1)
    places = batch["tokens"].shape[1] + LONGEST
    trie = place_trie(build_trie(ANSWERS), stop_ids=(END,), vocab_size=EXIST)

    def search(*, params=params, limits=None, beams=beams, trie=None):
        limits = limits or Limits(LONGEST, (END,), places, EXIST)
        return beam_search(MODEL, params, batch, limits, beams, trie)

    with pytest.raises(RunError, match=f"need {places}, cache_length is {places - 1}"):
        search(limits=Limits(LONGEST, (END,), places - 1))
    with pytest.raises(RunError, match="needs a stop word"):
        search(limits=Limits(LONGEST, (), places))
    with pytest.raises(RunError, match="min_length 8"):
        search(beams=Beams(2, 0.0, 0, LONGEST + 1))
    with pytest.raises(RunError, match="beams >= 1"):
        Beams(0, 0.0, 0, 0)
    with pytest.raises(RunError, match="longest answer of the trie, which has 4 words"):
        search(limits=Limits(3, (END,), places), trie=trie)
    with pytest.raises(RunError, match=r"no answer in rows \[0, 1, 2, 3\].*no_repeat"):
        search(beams=Beams(2, 0.0, 0, 5), trie=trie)
    broken = {**params, "embed": np.where(np.arange(WORDS)[:, None] == 9, np.nan, params["embed"])}
    with pytest.raises(RunError, match=r"NaN\) in rows \[.*2"):
        search(params=jax.tree.map(np.float32, broken))
    with pytest.raises(RunError, match="outside the vocabulary of 10, the first in answer 5: 10"):
        place_trie(build_trie(ANSWERS), stop_ids=(END,), vocab_size=10)
    with pytest.raises(RunError, match=r"answer 0 of the trie, .* must end with a stop word"):
        place_trie(build_trie([[5, 6], [7, END]]), stop_ids=(END,), vocab_size=10)
