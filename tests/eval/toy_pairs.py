"""A tiny encoder-decoder whose whole computation is a few lines of numpy, with a cache as beams need it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.types import ModelFns

WIDTH, END = 6, 2


class ToyCache(NamedTuple):
    """What has been read after each word [r places d]; the source's sum [b d] is the same for all its beams."""

    states: jax.Array
    lengths: jax.Array
    source: jax.Array

    def widen(self, beams):
        return self._replace(states=jnp.repeat(self.states, beams, 0), lengths=jnp.repeat(self.lengths, beams))

    def take(self, rows):
        return self._replace(states=self.states[rows], lengths=self.lengths[rows])

    def rewind(self, lengths):
        return self._replace(lengths=lengths)


def toy_params(words: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"embed": (words, WIDTH), "mix": (WIDTH, WIDTH), "head": (WIDTH, words)}
    return {name: rng.normal(0, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}


def toy_logits(params, source, words) -> np.ndarray:
    """Straightforward: all words again, without a cache."""
    state = np.zeros(WIDTH)
    for word in words:
        state = np.tanh(state @ params["mix"] + params["embed"][word] + params["embed"][source].sum(0))
    return state @ params["head"]


def toy_model() -> ModelFns:
    def unused(*_):
        raise AssertionError("decoding needs prefill and decode only")

    def read(params, state, words, source):
        return jnp.tanh(state @ params["mix"] + params["embed"][words] + source)

    def prefill(params, batch, cache_length):
        b, s = batch["tokens"].shape
        source = (params["embed"][batch["source_tokens"]] * batch["source_mask"][..., None]).sum(1)
        state, states = jnp.zeros((b, WIDTH)), jnp.zeros((b, cache_length, WIDTH))
        for place in range(s):
            state = read(params, state, batch["tokens"][:, place], source)
            states = states.at[:, place].set(state)
        cache = ToyCache(states, (batch["segment_ids"] != 0).sum(1), source)
        return states[jnp.arange(b), cache.lengths - 1] @ params["head"], cache

    def decode(params):
        def step(words, cache):
            rows = jnp.arange(len(words))
            state = cache.states[rows, cache.lengths - 1]
            source = jnp.repeat(cache.source, len(words) // len(cache.source), 0)
            state = read(params, state, words, source)
            states = cache.states.at[rows, cache.lengths].set(state)
            return state @ params["head"], cache._replace(states=states, lengths=cache.lengths + 1)

        return step

    return ModelFns(unused, unused, unused, unused, unused, prefill, decode)


def toy_batch(sources, beginnings) -> dict[str, np.ndarray]:
    """Right-padded rows of sources and of the words that the decoder is given."""
    batch = {}
    for name, rows in (("source_tokens", sources), ("tokens", beginnings)):
        batch[name] = np.zeros((len(rows), max(map(len, rows)) + 1), np.int32)
        for row, words in enumerate(rows):
            batch[name][row, : len(words)] = words
    batch["source_mask"] = np.arange(batch["source_tokens"].shape[1]) < np.array([len(row) for row in sources])[:, None]
    valid = np.arange(batch["tokens"].shape[1]) < np.array([len(row) for row in beginnings])[:, None]
    batch["segment_ids"] = valid.astype(np.int32)
    batch["positions"] = np.arange(batch["tokens"].shape[1], dtype=np.int32) * batch["segment_ids"]
    return batch
