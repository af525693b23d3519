"""Decoding with models whose right answer is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval import decode
from biomedgpt_jax.eval.trie_decode import place_trie

STOP, WORDS = 9, 12
PROMPTS = [[3, 1, 4, STOP], [5, STOP], [2, 7, 1, 8, 6, STOP], [STOP]]


def echo(logits_of=lambda token: 10.0 * jax.nn.one_hot(token, WORDS)) -> ModelFns:
    """A model that says its prompt again, word by word, out of its cache; counts its steps there."""

    def unused(*_):
        raise AssertionError("decoding needs prefill and decode only")

    def prefill(params, batch, cache_length):
        b, s = batch["tokens"].shape
        said = jnp.zeros((b, cache_length), jnp.int32).at[:, :s].set(batch["tokens"])
        return logits_of(said[:, 0] + params["shift"]), {"said": said, "at": jnp.zeros(b, jnp.int32)}

    def step(tokens, cache, params):
        at = cache["at"] + 1
        word = jnp.take_along_axis(cache["said"], at[:, None], 1)[:, 0]
        # the fed token must be the one just said, or the answer goes wrong
        fed_right = (tokens == jnp.take_along_axis(cache["said"], at[:, None] - 1, 1)[:, 0]) | (word == 0)
        return logits_of(jnp.where(fed_right, word, 11) + params["shift"]), {**cache, "at": at}

    return ModelFns(unused, unused, unused, unused, unused, prefill, lambda params: partial(step, params=params))


def batch_of(prompts, length=8):
    tokens = np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return {"tokens": tokens, "segment_ids": (tokens > 0).astype(np.int32)}


PARAMS = {"shift": jnp.zeros((), jnp.int32)}
LIMITS = decode.Limits(8, (STOP, 10), 16)


def test_greedy_stops_each_row_at_its_own_stop_token():
    tokens, lengths = decode.greedy(
        echo(), PARAMS, batch_of(PROMPTS), max_new_tokens=8, stop_ids=(STOP, 10), cache_length=16
    )
    assert tokens.dtype == np.int32 and tokens.shape == (4, 8)
    assert lengths.tolist() == [3, 1, 5, 0]
    assert tokens[0].tolist() == [3, 1, 4, 0, 0, 0, 0, 0]
    assert tokens[2].tolist() == [2, 7, 1, 8, 6, 0, 0, 0]
    assert not tokens[3].any()


def test_greedy_cuts_at_the_token_limit():
    model, batch = echo(), batch_of(PROMPTS)
    tokens, lengths = decode.greedy(model, PARAMS, batch, max_new_tokens=3, stop_ids=(STOP,), cache_length=11)
    assert lengths.tolist() == [3, 1, 3, 0]  # rows 0 and 2 have the full length: no stop token was met
    assert tokens[2].tolist() == [2, 7, 1]
    tokens, lengths = decode.greedy(model, PARAMS, batch, max_new_tokens=1, stop_ids=(), cache_length=9)
    assert tokens[:, 0].tolist() == [3, 5, 2, STOP] and lengths.tolist() == [1, 1, 1, 1]


def test_the_loop_ends_when_all_rows_have_stopped():
    """The word after the last stop is NaN for this model: a loop that went on would be refused."""
    poisoned = echo(lambda token: jnp.where(token[:, None] == 0, jnp.nan, jax.nn.one_hot(token, WORDS)))
    even = [[3, 1, STOP], [5, 2, STOP]]
    _, lengths = decode.greedy(poisoned, PARAMS, batch_of(even), max_new_tokens=8, stop_ids=(STOP,), cache_length=16)
    assert lengths.tolist() == [2, 2]
    # a row that has ended may hold anything while others run
    decode.greedy(
        poisoned,
        PARAMS,
        batch_of([[3, 1, STOP], [STOP]]),
        max_new_tokens=8,
        stop_ids=(STOP,),
        cache_length=16,
    )
    with pytest.raises(RunError, match=r"NaN\) in rows \[1\]"):
        decode.greedy(
            poisoned,
            PARAMS,
            batch_of([[3, 1, STOP], [5]]),
            max_new_tokens=8,
            stop_ids=(STOP,),
            cache_length=16,
        )


def test_vocab_limit_bars_padding_words():
    best_is_11 = echo(lambda token: jax.nn.one_hot(token, WORDS) + 5.0 * jax.nn.one_hot(11, WORDS))
    tokens, _ = decode.greedy(
        best_is_11,
        PARAMS,
        batch_of(PROMPTS),
        max_new_tokens=8,
        stop_ids=(STOP,),
        cache_length=16,
        vocab_limit=11,
    )
    assert tokens[0, :3].tolist() == [3, 1, 4]


def test_a_short_cache_is_refused():
    with pytest.raises(RunError, match="need 16, cache_length is 15"):
        decode.greedy(echo(), PARAMS, batch_of(PROMPTS), max_new_tokens=8, stop_ids=(STOP,), cache_length=15)


@pytest.mark.parametrize("sampling", [decode.GREEDY, decode.Sampling(3.0, 6, 0.95)])
def test_stream_says_what_sample_says(sampling):
    flat = echo(lambda token: 2.0 * jax.nn.one_hot(token, WORDS))
    key = jax.random.key(3)
    tokens, lengths = decode.sample(flat, PARAMS, batch_of(PROMPTS), LIMITS, sampling, key)
    streamed = np.stack(list(decode.stream(flat, PARAMS, batch_of(PROMPTS), LIMITS, sampling, key)), 1)
    assert streamed.shape[1] == lengths.max()
    for row, length in enumerate(lengths):
        assert streamed[row, :length].tolist() == tokens[row, :length].tolist()
        assert (streamed[row, length:] == -1).all()


def test_pick_follows_the_asked_distribution():
    probabilities = np.array([0.4, 0.3, 0.2, 0.1], np.float32)
    logits = jnp.log(jnp.tile(probabilities, (4000, 1)))

    def shares(sampling, limit=None):
        limits = decode.Limits(1, (), 1, limit)
        drawn = np.asarray(decode.pick(logits, limits, sampling, jax.random.key(0)))
        return np.bincount(drawn, minlength=4) / len(drawn)

    close = {"atol": 0.03}
    np.testing.assert_allclose(shares(decode.Sampling(1.0, 0, 1.0)), probabilities, **close)
    sharp = probabilities**2 / (probabilities**2).sum()
    np.testing.assert_allclose(shares(decode.Sampling(0.5, 0, 1.0)), sharp, **close)
    np.testing.assert_allclose(shares(decode.Sampling(1.0, 2, 1.0)), [4 / 7, 3 / 7, 0, 0], **close)
    np.testing.assert_allclose(shares(decode.Sampling(1.0, 0, 0.75)), [4 / 9, 3 / 9, 2 / 9, 0], **close)
    # top_k 2 leaves 4/7 and 3/7, of which the first alone reaches 0.5
    np.testing.assert_allclose(shares(decode.Sampling(1.0, 2, 0.5)), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(decode.Sampling(1.0, 0, 1.0), limit=1), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(decode.GREEDY), [1, 0, 0, 0])


def test_senseless_sampling_is_refused():
    with pytest.raises(RunError, match="top_p"):
        decode.Sampling(1.0, 0, 0.0)


def test_a_trie_leaves_the_likeliest_of_its_words_and_sampling_draws_among_them():
    """The echo model prefers its prompt; off the list the next best word of the list is said."""
    trie = place_trie(build_trie([[3, 1, STOP], [3, 2, 4, STOP], [5, STOP]]), stop_ids=(STOP, 10), vocab_size=WORDS)
    slope = echo(lambda token: jax.nn.one_hot(token, WORDS) + 0.01 * jnp.arange(WORDS))
    batch = batch_of([[3, 1, 4, STOP], [7, 2, 4, STOP], [3, 7, 4, STOP]])
    tokens, lengths = decode.greedy(
        slope, PARAMS, batch, max_new_tokens=8, stop_ids=(STOP, 10), cache_length=16, trie=trie
    )
    said = [words[:length].tolist() for words, length in zip(tokens, lengths, strict=True)]
    assert said == [[3, 1], [5], [3, 2, 4]]
    many = batch_of([[3, 1, STOP]] * 400)
    flat = echo(lambda token: jnp.zeros((len(token), WORDS)))
    drawn = decode.sample(flat, PARAMS, many, LIMITS, decode.Sampling(1.0, 0, 1.0), jax.random.key(0), trie)
    counts = [sum(words[:2].tolist() == start for words in drawn.tokens) / 400 for start in ([3, 1], [3, 2], [5, 0])]
    np.testing.assert_allclose(counts, [0.25, 0.25, 0.5], atol=0.07)
    with pytest.raises(RunError, match="longest answer of the trie, which has 3 words"):
        decode.greedy(slope, PARAMS, batch, max_new_tokens=2, stop_ids=(STOP,), cache_length=16, trie=trie)


def test_barred_words_are_never_said():
    sharp = echo(lambda token: 10.0 * jax.nn.one_hot(token, WORDS) + 0.01 * jnp.arange(WORDS))
    limits = decode.Limits(8, (STOP,), 16, WORDS, (range(3, 6), range(10, 12)))
    tokens, lengths = decode.sample(sharp, PARAMS, batch_of(PROMPTS), limits, decode.GREEDY, jax.random.key(0))
    assert tokens[0, : lengths[0]].tolist() == [] and tokens[2, :3].tolist() == [2, 7, 1]
    drawn, _ = decode.sample(
        echo(lambda token: jnp.zeros((len(token), WORDS))),
        PARAMS,
        batch_of([[3]] * 40),
        limits,
        decode.Sampling(1.0, 0, 1.0),
        jax.random.key(1),
    )
    assert set(np.unique(drawn)) == {0, 1, 2, 6, 7, 8}
