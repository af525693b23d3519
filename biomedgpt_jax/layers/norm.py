"""LayerNorm and RMSNorm, statistics in float32 whatever the activations are."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from biomedgpt_jax.core.module import param


class LayerNorm(nnx.Module):
    """Normalises the last dimension, then scale and bias; biased variance, as torch.nn.LayerNorm."""

    def __init__(self, width: int, *, eps: float, rngs: nnx.Rngs):
        self.scale = param(rngs, (width,), ("norm",), jax.nn.initializers.ones)
        self.bias = param(rngs, (width,), ("norm",), jax.nn.initializers.zeros)
        self.eps = eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, as in Llama; `offset` 1 multiplies by (1 + scale), as in Gemma."""

    def __init__(self, width: int, *, eps: float, offset: float, rngs: nnx.Rngs):
        init = jax.nn.initializers.constant(1.0 - offset)
        self.scale = param(rngs, (width,), ("norm",), init)
        self.eps = eps
        self.offset = offset

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return (normed * (self.offset + self.scale[...].astype(jnp.float32))).astype(x.dtype)
