"""The parts of a NormFormer layer (arXiv 2110.09456): attention whose heads have a factor each, an MLP with a norm.

Axis letters: b rows, s queries, t keys, d width, h heads, k head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from biomedgpt_jax.core.module import Initializer, Kept, keep, param
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.layers.biased_attention import biased_attention
from biomedgpt_jax.layers.dropout import drop_path, dropout
from biomedgpt_jax.layers.linear import Linear
from biomedgpt_jax.layers.norm import LayerNorm


class Noise(NamedTuple):
    """What a layer drops while it learns."""

    key: jax.Array
    path_rate: jax.Array  # float32 [], of whole branches
    rate: float  # of single numbers


def add_branch(x: Float[Array, "b s d"], branch: Float[Array, "b s d"], noise: Noise | None) -> Float[Array, "b s d"]:
    """The sum, after numbers and rows of the branch are dropped."""
    if noise is not None:
        numbers, rows = jax.random.split(noise.key)
        branch = drop_path(dropout(branch, noise.rate, numbers), noise.path_rate, rows)
    return shard(x + branch, "batch", "length", "activation_embed")


def branch_noises(noise: Noise | None, count: int) -> list[Noise | None]:
    """Independent ones for the branches of a layer."""
    if noise is None:
        return [None] * count
    return [noise._replace(key=key) for key in jax.random.split(noise.key, count)]


class NormFormerAttention(nnx.Module):
    """Attention with biases everywhere; `head_scale` multiplies what each head found, where there is one."""

    def __init__(self, width: int, heads: int, *, scale: float, head_scale: bool, init: Initializer, rngs: nnx.Rngs):
        inner = (heads, width // heads)
        read = {"in_axes": ("embed",), "out_axes": ("heads", "head_dim"), "bias": True, "init": init, "rngs": rngs}
        self.q = Linear((width,), inner, **read)
        self.k = Linear((width,), inner, **read)
        self.v = Linear((width,), inner, **read)
        write = {"in_axes": ("heads", "head_dim"), "out_axes": ("embed",), "bias": True, "init": init, "rngs": rngs}
        self.out = Linear(inner, (width,), **write)
        self.head_scale = param(rngs, (heads,), ("heads",), jax.nn.initializers.ones) if head_scale else None
        self.scale = scale

    def __call__(
        self,
        x: Float[Array, "b s d"],
        source: Float[Array, "b t d"],
        *,
        bias: Float[Array, "c h s t"],
        mask: Bool[Array, "#b #s t"],
    ) -> tuple[Float[Array, "b s d"], tuple[Float[Array, "b t h k"], Float[Array, "b t h k"]]]:
        """What x finds in `source` (itself, in self-attention), and keys and values of that."""
        q = shard(self.queries(x), "batch", "length", "activation_heads", None)
        k, v = self.keys_values(source)
        return self.output(biased_attention(q, k, v, bias=bias, mask=mask, scale=self.scale)), (k, v)

    def queries(self, x: Float[Array, "b s d"]) -> Float[Array, "b s h k"]:
        return keep(self.q(x), Kept.QKV)

    def keys_values(self, source: Float[Array, "b t d"]) -> tuple[Float[Array, "b t h k"], Float[Array, "b t h k"]]:
        return keep(self.k(source), Kept.QKV), keep(self.v(source), Kept.QKV)

    def output(self, found: Float[Array, "b s h k"]) -> Float[Array, "b s d"]:
        if self.head_scale is not None:
            found = found * self.head_scale[...].astype(found.dtype)[:, None]
        return self.out(found)


class NormFormerMlp(nnx.Module):
    """down(norm(gelu(up(x)))), the exact gelu in float32; the norm where there is one."""

    def __init__(self, width: int, hidden: int, *, inner_norm: bool, eps: float, init: Initializer, rngs: nnx.Rngs):
        self.up = Linear((width,), (hidden,), in_axes=("embed",), out_axes=("mlp",), bias=True, init=init, rngs=rngs)
        self.inner_norm = LayerNorm(hidden, eps=eps, rngs=rngs) if inner_norm else None
        self.down = Linear((hidden,), (width,), in_axes=("mlp",), out_axes=("embed",), bias=True, init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        hidden = shard(self.up(x), "batch", "length", "activation_mlp")
        hidden = jax.nn.gelu(hidden.astype(jnp.float32), approximate=False).astype(x.dtype)
        return self.down(hidden if self.inner_norm is None else self.inner_norm(hidden))
