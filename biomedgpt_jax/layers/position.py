"""Rotary position embedding (RoPE), in the half-split layout of Hugging Face Llama.

Axis letters: b rows, s tokens, h heads, k head width, f = k / 2 frequencies.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from biomedgpt_jax.core.module import of_each


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of the slow frequencies (transformers: rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int  # tokens of context before the stretching


class Rope(NamedTuple):
    """The rotation of each token, float32."""

    cos: jax.Array  # [b s f]
    sin: jax.Array  # [b s f]


def rope(positions: Int[Array, "b s"], *, head_dim: int, theta: float, scaling: RopeScaling | None) -> Rope:
    """Angles position * frequency, in float32 whatever the activations are: bfloat16 is wrong beyond 256."""

    def of_row(positions: Int[Array, " s"]) -> Rope:
        angles = positions[:, None].astype(jnp.float32) * frequencies(head_dim, theta, scaling)
        return Rope(jnp.cos(angles), jnp.sin(angles))

    return of_each(of_row, positions)


def rotate(x: Float[Array, "b s h k"], by: Rope) -> Float[Array, "b s h k"]:
    """Rotates the pairs (x[i], x[i + k/2])."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = by.cos[:, :, None], by.sin[:, :, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Radians per token [f], float32: theta^(-2i/k), the slow ones divided by `scaling.factor`.

    With scaling, wavelengths above original_length / low_freq_factor are stretched, those below
    original_length / high_freq_factor stay, and between them the frequencies are interpolated.
    """
    # Rounded where torch rounds (models were trained so): an error of 1e-7 here is 1e-4 radians at token 1000.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = np.float32(1) / (theta ** exponents.astype(np.float64)).astype(np.float32)
    if scaling is None:
        return plain
    turns = scaling.original_length * plain / (2 * math.pi)  # over the original context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    return (keep * plain + (1 - keep) * plain / scaling.factor).astype(np.float32)
