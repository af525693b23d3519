"""The decoder of BiomedGPT: words, or codes of a picture, after a source.

Axis letters: b sources, r rows (b times the beams of each source), s tokens, c places of the cache, n places of a
source, d width, h heads, k head width, m kinds of targets (text, and codes where the batch has any).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from biomedgpt_jax.core.module import Kept, Remat, divide, keep, param, scan, stack
from biomedgpt_jax.core.sharding import shard, target_platform
from biomedgpt_jax.layers.attention import LayersCache, cached_attention
from biomedgpt_jax.layers.biased_attention import beams_attention
from biomedgpt_jax.layers.dropout import dropout
from biomedgpt_jax.layers.norm import LayerNorm
from biomedgpt_jax.layers.normformer import Noise, NormFormerAttention, NormFormerMlp, add_branch, branch_noises
from biomedgpt_jax.layers.relative_bias import code_bias, image_buckets, text_bias, text_buckets
from biomedgpt_jax.models.biomedgpt_cache import KeysValues, PairCache
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig, Learning
from biomedgpt_jax.models.biomedgpt_encoder import Encoded, layer_noises
from biomedgpt_jax.models.biomedgpt_positions import UNUSED, DecoderPositions, code_ids, position_bias


class SharedBias(NamedTuple):
    """The part of the biases that all layers share, for each kind of target, float32."""

    own: jax.Array  # [m h s s]
    source: jax.Array  # [m h s n]


class StepBias(NamedTuple):
    """The biases of one token per row."""

    own: jax.Array  # [r h c], all layers' part
    source: jax.Array  # [b beams h n]
    text_rows: jax.Array  # int32 [r c], rows of a layer's table
    code_rows: jax.Array | None  # the same, where the batch has targets of codes
    codes: jax.Array | None  # bool [r]


class Decoder(nnx.Module):
    """Embeddings in, hidden states after the final norm out."""

    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        c = config
        self.text_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.code_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.positions = DecoderPositions(c, rngs=rngs)
        self.layers = stack(lambda keys: DecoderLayer(c, rngs=keys), c.decoder_layers, rngs)
        self.norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.config = config

    def __call__(
        self,
        words: Float[Array, "b s d"],
        source: Encoded,
        codes: Bool[Array, " b"] | None,
        *,
        remat: Remat,
        learning: Learning | None = None,
        key: jax.Array | None = None,
    ) -> Float[Array, "b s d"]:
        """Without a key as it answers, with one as it learns. Rows are padded on the right."""
        words_key, layers_key = (None, None) if key is None else jax.random.split(key)
        bias = self._bias(words.shape[1], source.positions, codes)
        x = self._embedded(words, codes, None)
        x = dropout(x, 0.0 if learning is None else learning.dropout, words_key)

        def one(layer: "DecoderLayer", x: jax.Array, noise: Any) -> tuple[jax.Array, None]:
            dropped = None if noise is None or learning is None else Noise(noise[0], noise[1], learning.dropout)
            return layer(x, source, bias, codes, dropped)[0], None

        return self.norm(
            scan(self.layers, one, x, layer_noises(self.config.decoder_layers, learning, layers_key), remat=remat)[0]
        )

    def prefill(
        self,
        words: Float[Array, "b s d"],
        source: Encoded,
        codes: Bool[Array, " b"] | None,
        lengths: Int[Array, " b"],
        places: int,
    ) -> tuple[Float[Array, "b d"], PairCache]:
        """The hidden state of the last of `lengths` words of each row, and the cache with room for `places`.

        Raises:
            ValueError: the rows are longer than the cache.
        """
        s = words.shape[1]
        if s > places:
            raise ValueError(f"Rows of {s} tokens do not fit a cache of {places} places.")
        bias = self._bias(places, source.positions, codes)
        here = SharedBias(bias.own[:, :, :s, :s], bias.source[:, :, :s])
        x, kept = scan(
            self.layers,
            lambda layer, x, _: layer(x, source, here, codes, None),
            self._embedded(words, codes, None),
        )
        last = jnp.take_along_axis(self.norm(x), lengths[:, None, None] - 1, axis=1)[:, 0]
        (keys, values), of_source = jax.tree.map(lambda each: jnp.swapaxes(each, 2, 3), kept)
        room = ((0, 0), (0, 0), (0, 0), (0, places - s), (0, 0))
        own = jnp.pad(keys, room), jnp.pad(values, room)
        return last, PairCache(
            self._runs(own), lengths, self._runs(of_source), source.mask, bias.own, bias.source, codes
        )

    def step(self) -> Callable[[Float[Array, "r 1 d"], PairCache], tuple[Float[Array, "r d"], PairCache]]:
        """A function for one more word per row. Its caller keeps `cache.lengths` below the cache's places."""
        runs = divide(self.layers, self._run_count())

        def step(words: jax.Array, cache: PairCache) -> tuple[jax.Array, PairCache]:
            bias, written = self._step_bias(cache), []
            x = self._embedded(words, bias.codes, cache.lengths)

            def one(layer: "DecoderLayer", carry: tuple[jax.Array, LayersCache], xs: Any) -> tuple[Any, None]:
                index, of_source = xs
                return layer.step(carry[0], carry[1], index, of_source, cache.mask, bias), None

            for run, (keys, values), of_source in zip(runs, cache.own, cache.source, strict=True):
                past = LayersCache(keys, values, cache.lengths)
                (x, past), _ = scan(run, one, (x, past), (jnp.arange(keys.shape[0]), of_source))
                written.append((past.keys, past.values))
            return self.norm(x)[:, 0], cache._replace(own=tuple(written), lengths=cache.lengths + 1)

        return step

    def _run_count(self) -> int:
        """In how many runs of layers a token is decoded; the reason is that of models/llama.py."""
        return self.config.decoder_layers if target_platform() == "cpu" else 1

    def _runs(self, kept: KeysValues) -> tuple[KeysValues, ...]:
        keys, values = (jnp.split(each, self._run_count()) for each in kept)
        return tuple(zip(keys, values, strict=True))

    def _embedded(
        self, words: Float[Array, "r s d"], codes: Bool[Array, " r"] | None, at: Int[Array, " r"] | None
    ) -> Float[Array, "r s d"]:
        """Normalised embeddings of words that begin at place 0, or of one word per row, at its place."""
        if self.config.add_decoder_positions:
            words = words + self._positions_added(words, codes, at)
        x = self.text_norm(words)
        if codes is not None:
            x = jnp.where(codes[:, None, None], self.code_norm(words), x)
        return shard(x, "batch", "length", "activation_embed")

    def _positions_added(self, words: jax.Array, codes: jax.Array | None, at: jax.Array | None) -> jax.Array:
        places = words.shape[1] if at is None else self.config.text_positions - UNUSED

        def read(table: Float[Array, "n d"]) -> jax.Array:
            return table[None] if at is None else table[at][:, None]

        text = read(self.positions.of_text(places, words.dtype))
        if codes is None:
            return text
        return jnp.where(codes[:, None, None], read(self.positions.of_codes(places, words.dtype)), text)

    def _bias(self, places: int, of_source: Float[Array, "n d"], codes: jax.Array | None) -> SharedBias:
        p, dtype, scale = self.positions, of_source.dtype, self.config.query_scale
        kinds = [p.text_norm(p.of_text(places, dtype))]
        if codes is not None:
            kinds.append(p.image_norm(p.of_codes(places, dtype)))
        return SharedBias(
            jnp.stack([position_bias(p.self_q, p.self_k, each, each, scale=scale) for each in kinds]),
            jnp.stack([position_bias(p.cross_q, p.cross_k, each, of_source, scale=scale) for each in kinds]),
        )

    def _step_bias(self, cache: PairCache) -> StepBias:
        c, places, at = self.config, cache.own_bias.shape[2], cache.lengths
        codes = None if cache.codes is None else jnp.repeat(cache.codes, cache.beams)
        kind = jnp.zeros_like(at) if codes is None else codes.astype(jnp.int32)
        source = cache.source_bias[kind, :, at]  # r h n
        buckets = jnp.asarray(text_buckets(places, buckets=c.text_buckets, reach=c.bucket_reach))
        text_rows = buckets[at[:, None] - jnp.arange(places) + places - 1]
        code_rows = None if codes is None else jnp.asarray(_code_rows(c, places))[at]
        own = cache.own_bias[kind, :, at]  # r h c
        return StepBias(own, source.reshape(-1, cache.beams, *source.shape[1:]), text_rows, code_rows, codes)


class DecoderLayer(nnx.Module):
    """x + norm(attention(norm(x))) on the target, the same on the source, x + mlp(norm(x))."""

    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        c, init = config, jax.nn.initializers.normal(config.init_std)
        attention = {"scale": c.query_scale, "head_scale": c.scale_heads, "init": init, "rngs": rngs}
        norm = {"eps": c.norm_eps, "rngs": rngs}
        self.self_norm = LayerNorm(c.width, **norm)
        self.self_attention = NormFormerAttention(c.width, c.heads, **attention)
        self.self_out_norm = LayerNorm(c.width, **norm) if c.scale_attention else None
        self.cross_norm = LayerNorm(c.width, **norm)
        self.cross_attention = NormFormerAttention(c.width, c.heads, **attention)
        self.cross_out_norm = LayerNorm(c.width, **norm) if c.scale_attention else None
        self.mlp_norm = LayerNorm(c.width, **norm)
        self.mlp = NormFormerMlp(c.width, c.mlp_width, inner_norm=c.scale_mlp, eps=c.norm_eps, init=init, rngs=rngs)
        self.text_bias = param(rngs, (c.text_relations, c.heads), (None, "heads"), init)
        self.image_bias = param(rngs, (c.image_relations, c.heads), (None, "heads"), init)
        self.config = config

    def __call__(
        self,
        x: Float[Array, "b s d"],
        source: Encoded,
        shared: SharedBias,
        codes: Bool[Array, " b"] | None,
        noise: Noise | None,
    ) -> tuple[Float[Array, "b s d"], tuple[KeysValues, KeysValues]]:
        """Returns the new x, and keys and values [b . h k] of the target and of the source."""
        x, noises = keep(x, Kept.INPUT), branch_noises(noise, 3)
        earlier = jnp.tri(x.shape[1], dtype=bool)[None]
        y = self.self_norm(x)
        y, own = self.self_attention(y, y, bias=self.bias(shared.own, codes), mask=earlier)
        x = add_branch(x, _normed(self.self_out_norm, y), noises[0])
        of_rows = _of_rows(shared.source, codes)
        y, found = self.cross_attention(self.cross_norm(x), source.hidden, bias=of_rows, mask=source.mask[:, None])
        x = add_branch(x, _normed(self.cross_out_norm, y), noises[1])
        return add_branch(x, self.mlp(self.mlp_norm(x)), noises[2]), (own, found)

    def bias(self, shared: Float[Array, "m h s s"], codes: Bool[Array, " b"] | None) -> Float[Array, "c h s s"]:
        """All layers' part and this layer's own, of the kind that each row's target has."""
        c, places = self.config, shared.shape[2]
        kinds = [text_bias(self.text_bias[...], places, reach=c.bucket_reach)]
        if codes is not None:
            kinds.append(code_bias(self.image_bias[...], places, codes=c.code_grid, grid=c.image_grid))
        return _of_rows(shared + jnp.stack(kinds).astype(jnp.float32), codes)

    def step(
        self,
        x: Float[Array, "r 1 d"],
        past: LayersCache,
        index: Int[Array, ""],
        of_source: KeysValues,
        mask: Bool[Array, "b n"],
        bias: StepBias,
    ) -> tuple[Float[Array, "r 1 d"], LayersCache]:
        """One more token of each row, behind layer `index` of the cache."""
        attention, scale = self.self_attention, self.config.query_scale
        y = self.self_norm(x)
        past = past.append(index, *attention.keys_values(y))
        own = bias.own + self._relative_rows(bias)
        y = attention.output(cached_attention(attention.queries(y), past, index, scale=scale, bias=own))
        x = x + _normed(self.self_out_norm, y)
        q = self.cross_attention.queries(self.cross_norm(x))
        by_source = q.reshape(mask.shape[0], -1, *q.shape[2:])
        found = beams_attention(by_source, *of_source, bias=bias.source, mask=mask, scale=scale).reshape(q.shape)
        x = x + _normed(self.cross_out_norm, self.cross_attention.output(found))
        return x + self.mlp(self.mlp_norm(x)), past

    def _relative_rows(self, bias: StepBias) -> Float[Array, "r h c"]:
        rows = self.text_bias[...][bias.text_rows]
        if bias.codes is not None and bias.code_rows is not None:
            of_codes = self.image_bias[...].at[bias.code_rows].get(mode="fill", fill_value=0)
            rows = jnp.where(bias.codes[:, None, None], of_codes, rows)
        return rows.swapaxes(1, 2).astype(jnp.float32)


def _normed(norm: LayerNorm | None, y: jax.Array) -> jax.Array:
    return y if norm is None else norm(y)


def _of_rows(kinds: Float[Array, "m h s n"], codes: Bool[Array, " b"] | None) -> Float[Array, "c h s n"]:
    """For each row that of its target's kind; one for all rows where all targets are text."""
    return kinds if codes is None else jnp.where(codes[:, None, None, None], kinds[1], kinds[0])


def _code_rows(config: BiomedGptConfig, places: int) -> np.ndarray:
    """The row of a relative table for each pair of places of a target of codes, and none behind the last code."""
    codes = min(places, config.code_grid**2 + 1)
    known = image_buckets(code_ids(config, codes), grid=config.image_grid)
    behind = places - codes
    return np.pad(known, ((0, behind), (0, behind)), constant_values=config.image_relations)
