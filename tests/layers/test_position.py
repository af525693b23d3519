import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from biomedgpt_jax.layers.position import RopeScaling, frequencies, rope, rotate

SCALINGS = {
    "plain": None,
    "llama-3.1": RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192),
    "llama-3.2": RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192),
}


def theirs(theta: float, scaling: RopeScaling | None) -> LlamaRotaryEmbedding:
    parameters = {"rope_theta": theta, "rope_type": "default"}
    if scaling is not None:
        parameters |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    config = transformers.LlamaConfig(
        hidden_size=512, num_attention_heads=4, max_position_embeddings=131072, rope_parameters=parameters
    )
    return LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("theta", [1e4, 5e5])
def test_frequencies_equal_transformers(theta, scaling):
    expected = theirs(theta, SCALINGS[scaling]).inv_freq.numpy()
    np.testing.assert_allclose(frequencies(128, theta, SCALINGS[scaling]), expected, rtol=3e-7)


def test_scaling_keeps_fast_frequencies_and_divides_slow_ones():
    plain, scaled = frequencies(128, 5e5, None), frequencies(128, 5e5, SCALINGS["llama-3.1"])
    np.testing.assert_array_equal(scaled[:29], plain[:29])
    np.testing.assert_allclose(scaled[35:], plain[35:] / 8, rtol=1e-6)
    assert (scaled[29:35] < plain[29:35]).all() and (scaled[29:35] > plain[29:35] / 8).all()


def test_rotation_equals_transformers_at_far_positions():
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 128)).astype(np.float32)
    positions = np.array([[0, 1, 600, 4000]])
    cos, sin = theirs(5e5, SCALINGS["llama-3.1"])(torch.tensor(x), torch.tensor(positions))
    expected, _ = apply_rotary_pos_emb(*[torch.tensor(x)] * 2, cos, sin, unsqueeze_dim=2)
    turn = rope(jnp.asarray(positions), head_dim=128, theta=5e5, scaling=SCALINGS["llama-3.1"])
    np.testing.assert_allclose(rotate(jnp.asarray(x), turn), expected.numpy(), atol=2e-5)


def test_only_distances_matter():
    """Queries at 1007 and keys at 1000 meet as those at 7 and 0 do."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 64))

    def score(at_q: int, at_k: int) -> float:
        turn = [rope(jnp.asarray([[at]]), head_dim=64, theta=1e4, scaling=None) for at in (at_q, at_k)]
        return float((rotate(q, turn[0]) * rotate(k, turn[1])).sum())

    assert score(1007, 1000) == pytest.approx(score(7, 0), abs=1e-3)
    assert abs(score(8, 0) - score(7, 0)) > 1e-2


def test_bfloat16_activations_are_turned_by_float32_angles():
    x = jnp.ones((1, 1, 1, 8), jnp.bfloat16)
    turned = rotate(x, rope(jnp.asarray([[1001]]), head_dim=8, theta=1e4, scaling=None))
    exact = rotate(jnp.ones((1, 1, 1, 8)), rope(jnp.asarray([[1001]]), head_dim=8, theta=1e4, scaling=None))
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_allclose(turned.astype(jnp.float32), exact, atol=5e-3)
