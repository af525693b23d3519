import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.layers.block_attention import block_attention
from biomedgpt_jax.layers.cudnn_attention import cudnn_attention, unserved


def test_what_cudnn_cannot_serve_runs_in_xla_and_the_log_says_so_once_per_shape(caplog):
    q = jax.random.normal(jax.random.key(0), (1, 9, 2, 8))
    ids = jnp.ones((1, 9), jnp.int32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            out = cudnn_attention(q, q, q, segment_ids=ids, scale=0.5)
            cudnn_attention(q[:, :5], q, q, segment_ids=None, scale=0.5)
    np.testing.assert_array_equal(out, block_attention(q, q, q, segment_ids=ids, scale=0.5))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "(1, 9, 2, 8)" in messages[0] and "found float32" in messages[0]
    assert "(1, 5, 2, 8)" in messages[1]


@pytest.mark.parametrize(
    "shape, dtype, packed, reason",
    [
        ((1, 2048, 32, 128), jnp.bfloat16, True, None),
        ((1, 577, 16, 64), jnp.bfloat16, False, None),
        ((1, 577, 16, 64), jnp.bfloat16, True, "even number of tokens, found 577"),
        ((1, 2048, 8, 256), jnp.bfloat16, True, "at most 128 channels, found 256"),
        ((1, 2048, 8, 36), jnp.float16, True, "multiple of 8 and at most 128 channels, found 36"),
        ((1, 2048, 8, 64), jnp.float32, True, "found float32"),
    ],
)
def test_reasons(shape, dtype, packed, reason):
    found = unserved(jnp.zeros(shape, dtype), packed=packed)
    assert (found is None) if reason is None else reason in found
