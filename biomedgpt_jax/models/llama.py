"""The Llama decoder: Llama 3 to 3.3, SmolLM2, and as fields Qwen2 (biases) and Gemma (offset norms).

Axis letters: b rows, s tokens, t places of the cache, d width, h heads, g key/value heads,
k head width, v vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from biomedgpt_jax.core.lora import Lora, adapt, adapt_layers
from biomedgpt_jax.core.module import Kept, Remat, divide, keep, scan, stack
from biomedgpt_jax.core.sharding import shard, target_platform
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.layers.attention import KVCache, LayersCache, cached_attention, causal_attention
from biomedgpt_jax.layers.linear import Embedding, Linear, contract
from biomedgpt_jax.layers.mlp import Activation, GatedMlp
from biomedgpt_jax.layers.norm import RMSNorm
from biomedgpt_jax.layers.position import Rope, RopeScaling, rope, rotate

# Every linear module of a block, as a pattern for core.lora; embedding and head are not in a block.
ALL_LINEARS = "attention/(q|k|v|out)|mlp/(gate|up|down)"


@dataclass(frozen=True)
class LlamaConfig:
    """Facts about a decoder; none has a default, so none can be forgotten."""

    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    activation: Activation
    vocab_size: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    eps: float  # of the RMS norms
    norm_offset: float  # 0; Gemma multiplies by 1 + scale
    qkv_bias: bool  # Qwen2
    embed_scale: float  # 1; Gemma multiplies token embeddings by sqrt(width)
    tied: bool  # the head is the embedding table
    init_std: float


class Llama(nnx.Module):
    """Token embeddings in, hidden states after the final norm out."""

    def __init__(self, config: LlamaConfig, *, lora: Lora | None, rngs: nnx.Rngs):
        init = jax.nn.initializers.normal(config.init_std)
        self.embed = Embedding(config.vocab_size, config.width, init=init, rngs=rngs)
        self.layers = stack(lambda keys: _make_block(config, lora, keys), config.depth, rngs)
        self.norm = RMSNorm(config.width, eps=config.eps, offset=config.norm_offset, rngs=rngs)
        head = {"in_axes": ("embed",), "out_axes": ("vocab",), "bias": False, "init": init, "rngs": rngs}
        self.lm_head = None if config.tied else Linear((config.width,), (config.vocab_size,), **head)
        self.config = config

    def embed_tokens(self, tokens: Int[Array, "b s"], dtype: DTypeLike) -> Float[Array, "b s d"]:
        return self.embed(tokens, dtype) * jnp.asarray(self.config.embed_scale, dtype)

    def __call__(
        self,
        x: Float[Array, "b s d"],
        segment_ids: Int[Array, "b s"],
        positions: Int[Array, "b s"],
        *,
        remat: Remat,
    ) -> Float[Array, "b s d"]:
        """Training form: rows are packs of segments."""
        turn = self._rope(positions)

        def one(block: "Block", x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, turn, segment_ids, None)[0], None

        return self.norm(scan(self.layers, one, _rows(x), remat=remat)[0])

    def unembed(self, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Float32 logits, accumulated in float32 from hidden states of any dtype."""
        table, width_axis = (self.embed.embedding, 1) if self.lm_head is None else (self.lm_head.kernel, 0)
        return contract(hidden, table[...].astype(hidden.dtype), (width_axis,), accumulate=jnp.float32)

    def head(self, dtype: DTypeLike) -> Float[Array, "d v"]:
        """What `unembed` multiplies with."""
        table = self.embed.embedding[...].T if self.lm_head is None else self.lm_head.kernel[...]
        return table.astype(dtype)

    def prefill(
        self,
        x: Float[Array, "b s d"],
        segment_ids: Int[Array, "b s"],
        positions: Int[Array, "b s"],
        cache_length: int,
    ) -> tuple[Float[Array, "b v"], KVCache]:
        """Runs prompts: one sample per row, padded on the right (segment 0).

        Returns:
            The logits after the last token of each row, and the cache with room for `cache_length`.

        Raises:
            ValueError: the rows are longer than the cache.
        """
        free = cache_length - x.shape[1]
        if free < 0:
            raise ValueError(f"Rows of {x.shape[1]} tokens do not fit a cache of {cache_length} places.")
        turn = self._rope(positions)
        x, (keys, values) = scan(self.layers, lambda block, x, _: block(x, turn, segment_ids, None), _rows(x))
        lengths = (segment_ids != 0).sum(axis=1, dtype=jnp.int32)
        last = jnp.take_along_axis(self.norm(x), lengths[:, None, None] - 1, axis=1)[:, 0]
        room = ((0, 0), (0, 0), (0, 0), (0, free), (0, 0))
        keys, values = (
            jnp.split(jnp.pad(jnp.swapaxes(each, 2, 3), room), self._cache_parts()) for each in (keys, values)
        )
        return self.unembed(last), KVCache(tuple(zip(keys, values, strict=True)), lengths)

    def decode_step(self) -> Callable[[Float[Array, "b 1 d"], KVCache], tuple[Float[Array, "b v"], KVCache]]:
        """A function for one more token per row. Its caller keeps `cache.lengths` below the cache's places."""
        runs = divide(self.layers, self._cache_parts())

        def step(x: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
            turn, parts = self._rope(cache.lengths[:, None]), []

            def one(block: "Block", carry: tuple[jax.Array, LayersCache], layer: jax.Array) -> tuple[Any, None]:
                x, (keys, values) = block(carry[0], turn, None, (carry[1], layer))
                return (x, carry[1]._replace(keys=keys, values=values)), None

            for run, (keys, values) in zip(runs, cache.parts, strict=True):
                part = LayersCache(keys, values, cache.lengths)
                (x, part), _ = scan(run, one, (x, part), jnp.arange(keys.shape[0]))
                parts.append((part.keys, part.values))
            return self.unembed(self.norm(x)[:, 0]), KVCache(tuple(parts), cache.lengths + 1)

        return step

    def _cache_parts(self) -> int:
        """In how many runs of layers a token is decoded.

        XLA's CPU backend copies a layer's weights and its cache out of their stack whenever a loop over layers
        reads them, which triples the memory that a token moves; so there each layer is a run of its own, taken
        apart before the first token, or once for many calls (`ModelFns.ready`). Accelerators read them in place, and
        have no room for a second copy.
        """
        return self.config.depth if target_platform() == "cpu" else 1

    def _rope(self, positions: Int[Array, "b s"]) -> Rope:
        c = self.config
        return rope(positions, head_dim=c.head_dim, theta=c.rope_theta, scaling=c.rope_scaling)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        c, init = config, jax.nn.initializers.normal(config.init_std)
        self.attention_norm = RMSNorm(c.width, eps=c.eps, offset=c.norm_offset, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(c.width, eps=c.eps, offset=c.norm_offset, rngs=rngs)
        self.mlp = GatedMlp(c.width, c.mlp_width, act=c.activation, bias=False, init=init, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b s d"],
        turn: Rope,
        segment_ids: Int[Array, "b s"] | None,
        past: tuple[LayersCache, jax.Array] | None,
    ) -> tuple[Float[Array, "b s d"], tuple[jax.Array, jax.Array]]:
        """Returns the new x and keys and values: those of x, [b s g k], or with `past` (cache, layer) the cache's."""
        x = keep(x, Kept.INPUT)
        mixed, keys_values = self.attention(self.attention_norm(x), turn, segment_ids, past)
        x = _rows(x + mixed)
        return _rows(x + self.mlp(self.mlp_norm(x))), keys_values


class Attention(nnx.Module):
    """Causal self-attention with rotary positions and grouped key/value heads."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        c, init = config, jax.nn.initializers.normal(config.init_std)
        read = {"in_axes": ("embed",), "bias": c.qkv_bias, "init": init, "rngs": rngs}
        self.q = Linear((c.width,), (c.heads, c.head_dim), out_axes=("heads", "head_dim"), **read)
        self.k = Linear((c.width,), (c.kv_heads, c.head_dim), out_axes=("kv_heads", "head_dim"), **read)
        self.v = Linear((c.width,), (c.kv_heads, c.head_dim), out_axes=("kv_heads", "head_dim"), **read)
        self.out = Linear(
            (c.heads, c.head_dim),
            (c.width,),
            in_axes=("heads", "head_dim"),
            out_axes=("embed",),
            bias=False,
            init=init,
            rngs=rngs,
        )
        self.scale = 1 / math.sqrt(c.head_dim)

    def __call__(
        self,
        x: Float[Array, "b s d"],
        turn: Rope,
        segment_ids: Int[Array, "b s"] | None,
        past: tuple[LayersCache, jax.Array] | None,
    ) -> tuple[Float[Array, "b s d"], tuple[jax.Array, jax.Array]]:
        q, k, v = (keep(each, Kept.QKV) for each in (rotate(self.q(x), turn), rotate(self.k(x), turn), self.v(x)))
        q = shard(q, "batch", "length", "activation_heads", None)
        if past is None:
            assert segment_ids is not None  # only a single token behind a cache has none
            return self.out(causal_attention(q, k, v, segment_ids=segment_ids, scale=self.scale)), (k, v)
        cache, layer = past
        cache = cache.append(layer, k, v)
        return self.out(cached_attention(q, cache, layer, scale=self.scale)), (cache.keys, cache.values)


def add_lora(config: LlamaConfig, lora: Lora, decoder: Params, key: jax.Array) -> Params:
    """Parameters of a plain decoder -> those of the same decoder made with `lora`; computes the same at first."""
    layers = adapt_layers(lambda rngs: Block(config, rngs=rngs), lora, decoder["layers"], *_example(config), key=key)
    return {**decoder, "layers": layers}


def _make_block(config: LlamaConfig, lora: Lora | None, rngs: nnx.Rngs) -> Block:
    block = Block(config, rngs=rngs)
    return block if lora is None else adapt(block, lora, *_example(config), rngs=rngs)


def _example(config: LlamaConfig) -> tuple:
    """Valid arguments of a block; Qwix finds the kernels by watching one call."""
    half = jnp.zeros((1, 1, config.head_dim // 2))
    return jnp.zeros((1, 1, config.width)), Rope(half, half), jnp.ones((1, 1), jnp.int32), None


def _rows(x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    return shard(x, "batch", "length", "activation_embed")
