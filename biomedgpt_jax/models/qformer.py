"""Q-Former: learned queries in a BERT whose every second layer also reads the tower's features.

Li et al. 2023, arXiv 2301.12597, as the official Llama3-Med builds it: no text inputs, so neither word
and position embeddings nor text feed-forwards, and the norm of the queries has no scale and no bias.

Axis letters: b images, n features, m queries, c channels of the tower, d width of the Q-Former.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from biomedgpt_jax.core.module import param
from biomedgpt_jax.layers.attention import attention
from biomedgpt_jax.layers.linear import Linear, torch_uniform
from biomedgpt_jax.layers.mlp import Activation, Mlp
from biomedgpt_jax.layers.norm import LayerNorm

BERT_INIT = jax.nn.initializers.normal(0.02)


@dataclass(frozen=True)
class QFormerConfig:
    """Facts about a Q-Former and the linear projection behind it."""

    queries: int
    width: int
    depth: int
    heads: int
    hidden: int
    act: Activation
    cross_every: int  # layers 0, cross_every, 2 cross_every, ... read the tower's features
    eps: float
    in_width: int
    out_width: int


class QFormer(nnx.Module):
    def __init__(self, config: QFormerConfig, *, rngs: nnx.Rngs):
        self.query_tokens = param(rngs, (config.queries, config.width), (None, "embed"), BERT_INIT)
        # Layers differ, so they are not stacked.
        self.blocks = nnx.List(
            QFormerBlock(config, crosses=index % config.cross_every == 0, rngs=rngs) for index in range(config.depth)
        )
        init = torch_uniform(config.width)
        self.projector = Linear(
            (config.width,),
            (config.out_width,),
            in_axes=("features",),
            out_axes=("embed",),
            bias=True,
            init=init,
            bias_init=init,
            rngs=rngs,
        )
        self.eps = config.eps

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b m d"]:
        queries = _standardise(self.query_tokens[...].astype(jnp.float32), self.eps).astype(x.dtype)
        queries = jnp.broadcast_to(queries, (x.shape[0], *queries.shape))
        for block in self.blocks:
            queries = block(queries, x)
        return self.projector(queries)


class QFormerBlock(nnx.Module):
    """Norms come after each residual sum, as in BERT."""

    def __init__(self, config: QFormerConfig, *, crosses: bool, rngs: nnx.Rngs):
        self.attention = QFormerAttention(config, config.width, rngs=rngs)
        self.attention_norm = LayerNorm(config.width, eps=config.eps, rngs=rngs)
        self.cross_attention = QFormerAttention(config, config.in_width, rngs=rngs) if crosses else None
        self.cross_norm = LayerNorm(config.width, eps=config.eps, rngs=rngs) if crosses else None
        self.mlp = Mlp(config.width, config.hidden, act=config.act, bias=True, init=BERT_INIT, rngs=rngs)
        self.mlp_norm = LayerNorm(config.width, eps=config.eps, rngs=rngs)

    def __call__(self, queries: Float[Array, "b m d"], features: Float[Array, "b n c"]) -> jax.Array:
        queries = self.attention_norm(queries + self.attention(queries, queries))
        if self.cross_attention is not None and self.cross_norm is not None:
            queries = self.cross_norm(queries + self.cross_attention(queries, features))
        return self.mlp_norm(queries + self.mlp(queries))


class QFormerAttention(nnx.Module):
    def __init__(self, config: QFormerConfig, key_width: int, *, rngs: nnx.Rngs):
        width, heads = (config.width,), (config.heads, config.width // config.heads)
        inward = {"out_axes": ("heads", "head_dim"), "bias": True, "init": BERT_INIT, "rngs": rngs}
        self.q = Linear(width, heads, in_axes=("embed",), **inward)
        self.k = Linear((key_width,), heads, in_axes=("embed",), **inward)
        self.v = Linear((key_width,), heads, in_axes=("embed",), **inward)
        self.out = Linear(
            heads,
            width,
            in_axes=("heads", "head_dim"),
            out_axes=("embed",),
            bias=True,
            init=BERT_INIT,
            rngs=rngs,
        )
        self.scale = heads[1] ** -0.5

    def __call__(self, queries: Float[Array, "b m d"], keys: Float[Array, "b n c"]) -> Float[Array, "b m d"]:
        return self.out(attention(self.q(queries), self.k(keys), self.v(keys), scale=self.scale))


def _standardise(x: Float[Array, "m d"], eps: float) -> Float[Array, "m d"]:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
