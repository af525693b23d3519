"""Beam search over `ModelFns`, one compiled loop for a batch.

The rules are those of fairseq's generator, which BiomedGPT's scores were made with: of each source's beams the best
candidates, twice as many as beams, are looked at; one that ends is an answer only if it is among the first `beams` of
them; the rest go on in order. A source is done when it has as many answers as beams.

Axis letters: b sources, k beams of a source, r = b k rows of the cache, s words of the given beginning, t new words,
v vocabulary, m candidates of a source.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.placing import spread
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.core.types import Batch, ModelFns, Params
from biomedgpt_jax.eval.decode import Decoded, Limits, Prompts, check_finite, check_room
from biomedgpt_jax.eval.largest import largest
from biomedgpt_jax.eval.trie_decode import TrieTable


@dataclass(frozen=True)
class Beams:
    """How beams are searched.

    An answer's score is the sum of its words' log-probabilities over `(words + 1) ** length_penalty`, the ending word
    counted in both; 0 leaves the sum as it is. No `no_repeat` words in a row are said twice, nor said if they stand in
    the given beginning; 0 allows it. An answer has `min_length` words or more.
    """

    beams: int
    length_penalty: float
    no_repeat: int
    min_length: int

    def __post_init__(self):
        if self.beams < 1 or self.no_repeat < 0 or self.min_length < 0:
            raise UsageError(f"beam search needs beams >= 1, no_repeat >= 0 and min_length >= 0, found {self}")


class Answers(NamedTuple):
    """The answers of each source, best first: `tokens` int32 [b k t] without the ending word, 0 after the last;
    `lengths` int32 [b k]; `scores` float32 [b k], -inf where fewer than k were found.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray

    @property
    def best(self) -> Decoded:
        return Decoded(self.tokens[:, 0], self.lengths[:, 0])


def beam_search(
    model: ModelFns, params: Params, batch: Prompts, limits: Limits, beams: Beams, trie: TrieTable | None = None
) -> Answers:
    """The answers that beam search finds after each row's own beginning, the batch's `tokens`.

    Words that do not exist (`limits.vocab_limit`) or that the trie does not allow are taken out before the softmax,
    barred and repeated ones after it. After `max_new_tokens` words only an end may follow.

    Raises:
        RunError: there is no word to end with, the cache is too short, the limit is below `min_length` or the trie's
            longest answer, a logit is not a number, or a source has no answer because blocking left no word.
    """
    check_room(batch, limits, trie)
    if not limits.stop_ids or beams.min_length > limits.max_new_tokens:
        raise RunError(
            f"beam search needs a stop word and min_length <= max_new_tokens: found stop_ids {limits.stop_ids}, "
            f"min_length {beams.min_length}, max_new_tokens {limits.max_new_tokens}"
        )
    found, finite = jax.device_get(_search(model, params, spread(batch), limits, beams, trie))
    check_finite(finite)
    found = Answers(*found)
    without = np.flatnonzero(found.scores[:, 0] == -np.inf).tolist()
    if without:
        raise RunError(
            f"beam search found no answer in rows {without} of the batch: blocked and barred words left none that may "
            f"follow. Lower no_repeat ({beams.no_repeat}) or min_length ({beams.min_length}), or bar fewer words"
        )
    return found


class _Found(NamedTuple):
    """`Answers` that are being written, in the order found."""

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


class _State(NamedTuple):
    """What a step of the loop maps to itself. The beams that run come first, then the answers."""

    step: jax.Array  # int32 [], words said
    rows: jax.Array  # int32 [r], which rows of the cache the beams go on from
    said: jax.Array  # int32 [b k t]
    sums: jax.Array  # float32 [b k], of log-probabilities
    nodes: jax.Array | None  # int32 [b k], in the trie
    found: _Found
    count: jax.Array  # int32 [b], of answers
    done: jax.Array  # bool [b]
    finite: jax.Array  # bool [b]


@partial(jax.jit, static_argnums=(0, 3, 4))
def _search(model: ModelFns, params: Params, batch: Batch, limits: Limits, beams: Beams, trie: TrieTable | None):
    def body(carry: tuple[_State, Any]) -> tuple[_State, Any]:
        state, cache = carry
        words = state.said[:, :, state.step - 1].reshape(-1)
        logits, cache = decode(words, cache.take(state.rows))
        return _extend(state, logits, batch, limits, beams, trie), cache

    def running(carry: tuple[_State, Any]) -> jax.Array:
        return (carry[0].step <= limits.max_new_tokens) & ~carry[0].done.all()

    logits, cache = model.prefill(params, batch, limits.cache_length)
    decode = model.decode(params)
    state = _extend(_start(len(logits), limits, beams, trie), logits, batch, limits, beams, trie)
    state, _ = jax.lax.while_loop(running, body, (state, cache.widen(beams.beams)))
    order = jnp.argsort(-state.found.scores, axis=1)
    found = _Found(*(jnp.take_along_axis(each, _like(order, each), 1) for each in state.found))
    # Each of several processes reads all answers.
    return jax.tree.map(lambda each: shard(each, *(None,) * each.ndim), (found, state.finite))


def _start(b: int, limits: Limits, beams: Beams, trie: TrieTable | None) -> _State:
    """Before the first word there is one beam for each source."""
    k, t = beams.beams, limits.max_new_tokens
    found = _Found(jnp.zeros((b, k, t), jnp.int32), jnp.zeros((b, k), jnp.int32), jnp.full((b, k), -jnp.inf))
    return _State(
        step=jnp.int32(0),
        rows=jnp.arange(b * k),
        said=jnp.zeros((b, 1, t), jnp.int32),
        sums=jnp.zeros((b, 1)),
        nodes=None if trie is None else trie.start(b)[:, None],
        found=found,
        count=jnp.zeros(b, jnp.int32),
        done=jnp.zeros(b, bool),
        finite=jnp.ones(b, bool),
    )


def _extend(
    state: _State, logits: jax.Array, batch: Batch, limits: Limits, beams: Beams, trie: TrieTable | None
) -> _State:
    """One more word for each beam, from logits [r v] (of a single beam per source in the first step)."""
    (b, k), v = state.sums.shape, logits.shape[-1]
    stops = jnp.array(limits.stop_ids, jnp.int32)
    gains = _log_probabilities(state, logits, limits, trie)
    # One logit that is not a number leaves none of its row.
    broken = (jnp.isnan(gains[:, 0]).reshape(b, k) & (state.sums > -jnp.inf)).any(-1) & ~state.done
    gains = _block(state, gains, batch, limits, beams, stops)
    # As many may end in each stop word as there are beams, so that beams are left.
    sums, index = largest(
        (state.sums[..., None] + gains.reshape(b, k, v)).reshape(b, -1), beams.beams * (len(stops) + 1)
    )
    beam, word = index // v, index % v  # b m
    ends = jnp.isin(word, stops) & (sums > -jnp.inf)

    found, count = _note(state, sums, beam, ends, beams)
    on = jnp.argsort(ends, axis=1)[:, : beams.beams]  # those that go on, in order
    sums, beam, word = (jnp.take_along_axis(each, on, 1) for each in (sums, beam, word))
    said = jnp.take_along_axis(state.said, beam[..., None], 1).at[:, :, state.step].set(word)
    nodes = None
    if trie is not None:
        assert state.nodes is not None
        nodes = trie.follow(jnp.take_along_axis(state.nodes, beam, 1).reshape(-1), word.reshape(-1)).reshape(b, -1)
    done = state.done | (count == beams.beams) | (sums == -jnp.inf).all(1)
    rows = (jnp.arange(b)[:, None] * beams.beams + beam).reshape(-1)
    return _State(state.step + 1, rows, said, sums, nodes, found, count, done, state.finite & ~broken)


def _log_probabilities(state: _State, logits: jax.Array, limits: Limits, trie: TrieTable | None) -> jax.Array:
    """Of all words that exist and that the trie allows, [r v]."""
    logits = limits.exist(logits)
    if trie is not None:
        assert state.nodes is not None
        logits = jnp.where(trie.allowed(state.nodes.reshape(-1), logits.shape[-1]), logits, -jnp.inf)
    return jax.nn.log_softmax(logits, -1)


def _block(state: _State, gains: jax.Array, batch: Batch, limits: Limits, beams: Beams, stops: jax.Array) -> jax.Array:
    """-inf for what may not be said in this step, [r v]."""
    gains = limits.bar(gains)
    if beams.no_repeat:
        b, k = state.sums.shape
        given = (batch["segment_ids"] != 0).sum(1)
        texts = jax.vmap(partial(_join, step=state.step))(batch["tokens"], given, state.said).reshape(b * k, -1)
        repeated = jax.vmap(partial(_repeated, size=beams.no_repeat))(texts, jnp.repeat(given + state.step, k))
        # Where nothing is repeated the word is -1, which is outside.
        outside = jnp.where(repeated < 0, gains.shape[-1], repeated)
        gains = gains.at[jnp.arange(b * k)[:, None], outside].set(-jnp.inf, mode="drop")
    ends = jnp.zeros(gains.shape[-1], bool).at[stops].set(True)
    may_end, must_end = state.step >= beams.min_length, state.step == limits.max_new_tokens
    return jnp.where(jnp.where(ends, may_end, ~must_end), gains, -jnp.inf)


def _join(given: jax.Array, length: jax.Array, said: jax.Array, step: jax.Array) -> jax.Array:
    """The first `length` words of `given` [s] and then each of `said` [k t], without a gap: int32 [k s+t]."""
    places = jnp.arange(given.shape[0] + said.shape[1])
    new = said[:, (places - length).clip(0, said.shape[1] - 1)]
    return jnp.where(places < length, given[places.clip(max=given.shape[0] - 1)], new)


def _repeated(text: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Words after which the last `size` words of a text [places] would stand in it twice, -1 in places without one."""
    starts = jnp.arange(text.shape[0])
    same = starts + size <= length
    for offset in range(size - 1):
        same &= text[(starts + offset).clip(max=text.shape[0] - 1)] == text[(length - size + 1 + offset).clip(0)]
    return jnp.where(same, text[(starts + size - 1).clip(max=text.shape[0] - 1)], -1)


def _note(state: _State, sums: jax.Array, beam: jax.Array, ends: jax.Array, beams: Beams) -> tuple[_Found, jax.Array]:
    """Writes down those of the first k candidates that end, while there is room for answers."""
    k = beams.beams
    ended = ends[:, :k] & ~state.done[:, None]
    slot = jnp.where(ended, state.count[:, None] + ended.cumsum(1) - 1, k)  # k and more are outside
    rows = jnp.arange(len(sums))[:, None]
    texts = jnp.take_along_axis(state.said, beam[:, :k, None], 1)
    scores = sums[:, :k] / (state.step + 1.0) ** beams.length_penalty
    found = _Found(
        state.found.tokens.at[rows, slot].set(texts, mode="drop"),
        state.found.lengths.at[rows, slot].set(state.step, mode="drop"),
        state.found.scores.at[rows, slot].set(scores, mode="drop"),
    )
    return found, jnp.minimum(state.count + ended.sum(1), k)


def _like(order: jax.Array, values: jax.Array) -> jax.Array:
    return order.reshape(order.shape + (1,) * (values.ndim - order.ndim))
