"""A model whose right answer is known: it says its prompt again."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.eval.decode import Limits

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
LIMITS = Limits(8, (STOP, 10), 16)
