"""The likeliest answers of `ModelFns`: one compiled loop for a batch. `row_decode.py` draws, and shows answers early.

Axis letters: b rows, s prompt tokens, t new tokens, v vocabulary. Each row of a batch holds one prompt,
right-padded. All shapes are static: a model compiles once per prompt length and token limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.placing import spread
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.core.types import Batch, ModelFns, Params
from biomedgpt_jax.eval.largest import place_of_largest
from biomedgpt_jax.eval.trie_decode import TrieTable

Prompts = Mapping[str, Any]  # a Batch, or the same names with numpy arrays


@dataclass(frozen=True)
class Limits:
    """Where an answer ends: `stop_ids` end a row (and are not part of it), `max_new_tokens` ends them all.

    `cache_length` bounds prompt and answer together. Words from `vocab_limit` on do not exist (they only pad the
    embedding); None: all do. Words in `barred` exist and are never said: an image's codes in a text, padding.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    cache_length: int
    vocab_limit: int | None = None
    barred: tuple[range, ...] = ()

    def exist(self, logits: jax.Array) -> jax.Array:
        """Logits [... v] with -inf for words that do not exist."""
        if self.vocab_limit is None:
            return logits
        return jnp.where(jnp.arange(logits.shape[-1]) < self.vocab_limit, logits, -jnp.inf)

    def bar(self, logits: jax.Array) -> jax.Array:
        """Logits, or their logarithms of probabilities, [... v] with -inf for barred words."""
        words = jnp.arange(logits.shape[-1])
        for ids in self.barred:
            logits = jnp.where((words >= ids.start) & (words < ids.stop), -jnp.inf, logits)
        return logits


class Decoded(NamedTuple):
    """`tokens` int32 [b t], 0 after the end; `lengths` int32 [b], the stop token not counted.

    A row of length t never met a stop token.
    """

    tokens: np.ndarray
    lengths: np.ndarray


def greedy(
    model: ModelFns,
    params: Params,
    batch: Prompts,
    *,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    cache_length: int,
    vocab_limit: int | None = None,
    barred: tuple[range, ...] = (),
    trie: TrieTable | None = None,
) -> Decoded:
    """The likeliest token at each step, in one compiled loop that ends when all rows have stopped.

    With `trie`, each answer is one of its list.

    Raises:
        RunError: the cache is too short for prompt and answer, or the limit for the trie's longest answer; a logit
            is not a number.
    """
    limits = Limits(max_new_tokens, tuple(stop_ids), cache_length, vocab_limit, barred)
    return likeliest(model, params, batch, limits, trie)


def likeliest(
    model: ModelFns, params: Params, batch: Prompts, limits: Limits, trie: TrieTable | None = None
) -> Decoded:
    """As `greedy`."""
    check_room(batch, limits, trie)
    tokens, lengths, finite = jax.device_get(_generate(model, params, spread(batch), limits, trie))
    check_finite(finite)
    return Decoded(tokens, lengths)


@partial(jax.jit, static_argnums=(0, 3))
def _generate(model: ModelFns, params: Params, batch: Batch, limits: Limits, trie: TrieTable | None):
    stops = jnp.array(limits.stop_ids, jnp.int32)

    def follow(step, logits, nodes, tokens, lengths, done, finite):
        """Take one token per row from the logits and write it down where the row still runs."""
        finite &= ~jnp.isnan(logits).any(-1) | done
        if trie is not None:
            logits = jnp.where(trie.allowed(nodes, logits.shape[-1]), logits, -jnp.inf)
        token = place_of_largest(limits.bar(limits.exist(logits)))
        if trie is not None:
            nodes = trie.follow(nodes, token)
        done |= jnp.isin(token, stops)
        tokens = tokens.at[:, step].set(jnp.where(done, 0, token))
        return token, nodes, tokens, lengths + ~done, done, finite

    def body(carry):
        step, token, cache, *written = carry
        logits, cache = decode(token, cache)
        token, *written = follow(step, logits, *written)
        return step + 1, token, cache, *written

    def running(carry):
        step, *_, done, _ = carry
        return (step < limits.max_new_tokens) & ~done.all()

    logits, cache = model.prefill(params, batch, limits.cache_length)
    decode = model.decode(params)
    b = logits.shape[0]
    nodes = None if trie is None else trie.start(b)
    tokens, lengths = jnp.zeros((b, limits.max_new_tokens), jnp.int32), jnp.zeros(b, jnp.int32)
    token, *written = follow(0, logits, nodes, tokens, lengths, jnp.zeros(b, bool), jnp.ones(b, bool))
    *_, tokens, lengths, _, finite = jax.lax.while_loop(running, body, (1, token, cache, *written))
    # Each of several processes reads all answers.
    return shard(tokens, None, None), shard(lengths, None), shard(finite, None)


def check_room(batch: Prompts, limits: Limits, trie: TrieTable | None = None) -> None:
    """Raises RunError where the cache cannot hold prompt and answer, or an answer of the trie not be said."""
    needed = batch["tokens"].shape[1] + limits.max_new_tokens
    if limits.max_new_tokens < 1 or limits.cache_length < needed:
        raise RunError(
            f"decoding needs max_new_tokens >= 1 and a cache for prompt and answer: prompt rows of "
            f"{batch['tokens'].shape[1]} and {limits.max_new_tokens} new tokens need {needed}, "
            f"cache_length is {limits.cache_length}. Raise cache_length or lower max_new_tokens"
        )
    if trie is not None and trie.longest > limits.max_new_tokens:
        raise RunError(
            f"max_new_tokens {limits.max_new_tokens} is too few for the longest answer of the trie, which has "
            f"{trie.longest} words. Raise it to {trie.longest}"
        )


def check_finite(finite: np.ndarray) -> None:
    """Raises RunError naming the rows where `finite`, bool [b], is False."""
    if not finite.all():
        rows = np.flatnonzero(~finite).tolist()
        raise RunError(
            f"the model's logits are not numbers (NaN) in rows {rows} of the batch: it has no answer there. "
            "Check the checkpoint; a run that diverged gives such weights"
        )
