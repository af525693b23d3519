"""Rows with settings of their own, some tokens at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval import decode
from biomedgpt_jax.eval.row_decode import GREEDY, RowDecoder, Sampling, draw, row_settings
from biomedgpt_jax.eval.trie_decode import place_trie
from tests.eval.echo import LIMITS, PARAMS, PROMPTS, STOP, WORDS, batch_of, echo

EVEN = Sampling(1.0, 0, 1.0)


def settings(*samplings, most=8):
    return row_settings(samplings, [(3, row) for row in range(len(samplings))], [most] * len(samplings))


def said(model, prompts, how, steps=(8,), stopped=None, limits=LIMITS, trie=None):
    """The words of each row, after `steps` of so many tokens."""
    decoder = RowDecoder(model, PARAMS, batch_of(prompts), limits, how, trie)
    for tokens in steps:
        decoder.go_on(tokens, np.zeros(len(prompts), bool) if stopped is None else np.array(stopped))
    return [words[:length].tolist() for words, length in zip(decoder.tokens, decoder.lengths, strict=True)], decoder


@pytest.mark.parametrize("steps", [(8,), (1,) * 7, (2, 1, 9)])
def test_the_likeliest_words_are_those_of_the_one_loop(steps):
    words, decoder = said(echo(), PROMPTS, settings(*[GREEDY] * 4), steps)
    tokens, lengths = decode.likeliest(echo(), PARAMS, batch_of(PROMPTS), LIMITS)
    assert words == [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    assert decoder.done.all()


def test_each_row_has_its_own_length_and_may_be_stopped():
    how = replace(settings(*[GREEDY] * 4), most=np.array([2, 8, 5, 0], np.int32))
    words, decoder = said(echo(), PROMPTS, how, (2,))
    assert words == [[3, 1], [5], [2, 7, 1], []] and decoder.done.tolist() == [True, True, False, True]
    decoder.go_on(8, np.array([False] * 4))
    assert decoder.lengths.tolist() == [2, 1, 5, 0]
    words, _ = said(echo(), PROMPTS, settings(*[GREEDY] * 4), (1, 8), stopped=[False, False, True, False])
    assert words == [[3, 1, 4], [5], [2], []]


def test_a_row_draws_what_it_would_draw_alone():
    flat = echo(lambda token: 2.0 * jax.nn.one_hot(token, WORDS))
    prompt, warm = PROMPTS[2], Sampling(3.0, 6, 0.95)
    together, _ = said(flat, [prompt] * 4, settings(warm, EVEN, GREEDY, warm))
    assert together[2] == prompt[:-1] and together[0] != together[3]
    for row, sampling in enumerate((warm, EVEN, GREEDY, warm)):
        alone, _ = said(flat, [prompt], row_settings([sampling], [(3, row)], [8]), (1,) * 8)
        assert alone == [together[row]]


def test_words_follow_the_asked_distribution():
    probabilities = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    logits = jnp.log(jnp.tile(probabilities, (4000, 1)))

    def shares(sampling, limit=None):
        how = settings(*[sampling] * 4000)
        drawn = np.asarray(draw(logits, decode.Limits(1, (), 1, limit), how, jnp.zeros((), jnp.int32)))
        return np.bincount(drawn, minlength=4) / len(drawn)

    close = {"atol": 0.03}
    np.testing.assert_allclose(shares(EVEN), probabilities, **close)
    sharp = probabilities**2 / (probabilities**2).sum()
    np.testing.assert_allclose(shares(Sampling(0.5, 0, 1.0)), sharp, **close)
    np.testing.assert_allclose(shares(Sampling(1.0, 2, 1.0)), [4 / 7, 3 / 7, 0, 0], **close)
    np.testing.assert_allclose(shares(Sampling(1.0, 0, 0.75)), [4 / 9, 3 / 9, 2 / 9, 0], **close)
    # top_k 2 leaves 4/7 and 3/7, of which the first alone reaches 0.5
    np.testing.assert_allclose(shares(Sampling(1.0, 2, 0.5)), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(EVEN, limit=1), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(GREEDY), [1, 0, 0, 0])


def test_words_are_drawn_among_those_of_a_trie_and_never_barred_ones():
    flat = echo(lambda token: jnp.zeros((len(token), WORDS)))
    trie = place_trie(build_trie([[3, 1, STOP], [3, 2, 4, STOP], [5, STOP]]), stop_ids=(STOP, 10), vocab_size=WORDS)
    words, _ = said(flat, [[3, 1, STOP]] * 400, settings(*[EVEN] * 400), trie=trie)
    counts = [sum(row == answer for row in words) / 400 for answer in ([3, 1], [3, 2, 4], [5])]
    np.testing.assert_allclose(counts, [0.25, 0.25, 0.5], atol=0.07)
    limits = decode.Limits(8, (STOP,), 16, WORDS, (range(3, 6), range(10, 12)))
    words, _ = said(flat, [[3]] * 40, settings(*[EVEN] * 40), limits=limits)
    assert {word for row in words for word in row} == {0, 1, 2, 6, 7, 8}


def test_what_is_no_number_is_refused_while_a_row_runs():
    poisoned = echo(lambda token: jnp.where(token[:, None] == 0, jnp.nan, jax.nn.one_hot(token, WORDS)))
    said(poisoned, [[3, 1, STOP], [STOP]], settings(GREEDY, GREEDY))
    with pytest.raises(RunError, match=r"NaN\) in rows \[1\]"):
        said(poisoned, [[3, 1, STOP], [5]], settings(GREEDY, GREEDY))


def test_senseless_sampling_is_refused():
    with pytest.raises(RunError, match="top_p"):
        Sampling(1.0, 0, 0.0)
