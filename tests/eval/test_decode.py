"""Decoding with models whose right answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval import decode
from biomedgpt_jax.eval.trie_decode import place_trie
from tests.eval.echo import PARAMS, PROMPTS, STOP, WORDS, batch_of, echo


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


def test_a_trie_leaves_the_likeliest_of_its_words():
    """The echo model prefers its prompt; off the list the next best word of the list is said."""
    trie = place_trie(build_trie([[3, 1, STOP], [3, 2, 4, STOP], [5, STOP]]), stop_ids=(STOP, 10), vocab_size=WORDS)
    slope = echo(lambda token: jax.nn.one_hot(token, WORDS) + 0.01 * jnp.arange(WORDS))
    batch = batch_of([[3, 1, 4, STOP], [7, 2, 4, STOP], [3, 7, 4, STOP]])
    tokens, lengths = decode.greedy(
        slope, PARAMS, batch, max_new_tokens=8, stop_ids=(STOP, 10), cache_length=16, trie=trie
    )
    said = [words[:length].tolist() for words, length in zip(tokens, lengths, strict=True)]
    assert said == [[3, 1], [5], [3, 2, 4]]
    with pytest.raises(RunError, match="longest answer of the trie, which has 3 words"):
        decode.greedy(slope, PARAMS, batch, max_new_tokens=2, stop_ids=(STOP,), cache_length=16, trie=trie)


def test_barred_words_are_never_said():
    sharp = echo(lambda token: 10.0 * jax.nn.one_hot(token, WORDS) + 0.01 * jnp.arange(WORDS))
    limits = decode.Limits(8, (STOP,), 16, WORDS, (range(3, 6), range(10, 12)))
    tokens, lengths = decode.likeliest(sharp, PARAMS, batch_of(PROMPTS), limits)
    assert tokens[0, : lengths[0]].tolist() == [] and tokens[2, :3].tolist() == [2, 7, 1]
