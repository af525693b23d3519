"""BiomedGPT: an encoder of image patches and words, a decoder of words and image codes, one vocabulary for all.

Equations as in OFA (arXiv 2202.03052), whose weights and those of arXiv 2305.17100 it takes.

Axis letters: b rows, t source words, s target tokens, h w pixels, n places of a source, d width, v vocabulary.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.core.types import DecodeStep, ModelFns, PairBatch, Params
from biomedgpt_jax.layers.batch_norm import live
from biomedgpt_jax.layers.linear import Embedding, contract
from biomedgpt_jax.models.biomedgpt_cache import PairCache
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig, Learning, is_statistic
from biomedgpt_jax.models.biomedgpt_decoder import Decoder
from biomedgpt_jax.models.biomedgpt_encoder import Encoded, Encoder, Patches
from biomedgpt_jax.models.vision import normalise

PAD = 1  # its embedding begins as zeros

Pixels = tuple[float, float, float]  # one number per channel
AsPixels = Callable[[jax.Array, jax.Array | None], jax.Array]  # uint8 pictures [b 1 h w 3], which have a hole [b]


def make_biomedgpt(
    config: BiomedGptConfig,
    *,
    compute_dtype: DTypeLike,
    remat: Remat,
    learning: Learning,
    image_mean: Pixels,
    image_std: Pixels,
) -> ModelFns:
    """The model as pure functions of parameters and a `PairBatch`.

    `train` gives hidden states and {"encoder": {"stem": ...}}: the running statistics after this batch, the old ones
    where it has no images or they are frozen. Logits of words that only pad the head are the least float32.
    Targets begin at place 0 of their row, so `positions` is not read.

    Args:
        image_mean: of pixels in 0 to 1, as `image_std`.
    """
    model = Functional(lambda rngs: BiomedGpt(config, rngs=rngs))
    dtype = jnp.dtype(compute_dtype)

    def pixels(images: jax.Array, hole: jax.Array | None) -> jax.Array:
        return normalised(images, hole, image_mean, image_std).astype(dtype)

    def forward(params: Params, batch: PairBatch) -> Float[Array, "b s d"]:
        bound = model.bind(params)
        source = bound.encode(batch, pixels, dtype, remat=remat)
        words = bound.embed(batch["tokens"], dtype)
        return bound.decoder(words, source, batch.get("code_targets"), remat=remat)

    def train(params: Params, batch: PairBatch, key: jax.Array) -> tuple[Float[Array, "b s d"], Params]:
        bound, (source_key, target_key) = model.bind(params), jax.random.split(key)
        source, statistics = bound.learn(batch, pixels, dtype, remat=remat, learning=learning, key=source_key)
        words, codes = bound.embed(batch["tokens"], dtype), batch.get("code_targets")
        hidden = bound.decoder(words, source, codes, remat=remat, learning=learning, key=target_key)
        return hidden, {"encoder": {"stem": statistics}}

    def unembed(params: Params, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        return model.bind(params).unembed(hidden)

    def head(params: Params) -> Float[Array, "d v"]:
        return model.bind(params).embed.embedding[...].T.astype(dtype)

    def prefill(params: Params, batch: PairBatch, cache_length: int) -> tuple[Float[Array, "b v"], PairCache]:
        bound = model.bind(params)
        source = bound.encode(batch, pixels, dtype, remat=Remat.NONE)
        lengths = (batch["segment_ids"] != 0).sum(axis=1, dtype=jnp.int32)
        words = bound.embed(batch["tokens"], dtype)
        last, cache = bound.decoder.prefill(words, source, batch.get("code_targets"), lengths, cache_length)
        return bound.unembed(last), cache

    def decode(params: Params) -> DecodeStep:
        bound = model.bind(params)
        step = bound.decoder.step()

        def one(tokens: jax.Array, cache: PairCache) -> tuple[jax.Array, PairCache]:
            hidden, cache = step(bound.embed(tokens[:, None], dtype), cache)
            return bound.unembed(hidden), cache

        return one

    facts = config.vocab_size, train, is_statistic, partial(model.ready, turn=True)
    return ModelFns(model.init, model.axes, forward, unembed, head, prefill, decode, *facts)


class BiomedGpt(nnx.Module):
    """Embedding (also the head), encoder, decoder."""

    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        self.embed = Embedding(config.padded_vocab_size, config.width, init=_embedding_init(config), rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.config = config

    def encode(self, batch: PairBatch, pixels: AsPixels, dtype: DTypeLike, *, remat: Remat) -> Encoded:
        """The source as the model answers."""
        words, patches = self.embed(batch["source_tokens"], dtype), None
        if "images" in batch:
            seen = present(batch["images"], batch.get("image_mask"))
            images = pixels(batch["images"], batch.get("image_hole"))
            patches, _ = self.encoder.patches(images, seen, None, remat=remat)
        return self.encoder(words, batch["source_mask"], patches, remat=remat)

    def learn(
        self,
        batch: PairBatch,
        pixels: AsPixels,
        dtype: DTypeLike,
        *,
        remat: Remat,
        learning: Learning,
        key: jax.Array,
    ) -> tuple[Encoded, Params]:
        """The source as the model learns, and the stem's running statistics after it."""
        patches_key, key = jax.random.split(key)
        words, patches = self.embed(batch["source_tokens"], dtype), None
        statistics = self.encoder.stem.statistics()
        if "images" in batch:
            seen = present(batch["images"], batch.get("image_mask"))
            images = pixels(batch["images"], batch.get("image_hole"))
            of_batch = live(learning.batch_norm, seen.astype(jnp.float32))
            patches, statistics = self.encoder.patches(images, seen, of_batch, remat=remat)
            if "patches_kept" in batch:
                patches = sampled(patches, batch["patches_kept"], patches_key)
        source = self.encoder(words, batch["source_mask"], patches, remat=remat, learning=learning, key=key)
        return source, statistics

    def unembed(self, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        """Float32 logits, accumulated in float32 from hidden states of any dtype."""
        table = self.embed.embedding[...].astype(hidden.dtype)
        logits = contract(hidden, table, (1,), accumulate=jnp.float32)
        exists = jnp.arange(table.shape[0]) < self.config.vocab_size
        return jnp.where(exists, logits, jnp.finfo(jnp.float32).min)


def normalised(
    images: UInt8[Array, "b 1 h w 3"], hole: Bool[Array, " b"] | None, mean: Pixels, std: Pixels
) -> Float[Array, "b h w 3"]:
    """Pictures as the stem reads them; the middle half of those with a hole is 0."""
    pixels = normalise(shard(images[:, 0], "tiles", None, None, None), mean, std)
    if hole is None:
        return pixels
    rows, columns = (_middle(size) for size in pixels.shape[1:3])
    hidden = hole[:, None, None] & rows[:, None] & columns
    return jnp.where(hidden[..., None], 0, pixels)


def present(images: UInt8[Array, "b 1 h w 3"], mask: Bool[Array, " b"] | None) -> Bool[Array, " b"]:
    """Which rows hold a picture."""
    return jnp.ones(images.shape[0], bool) if mask is None else mask


def sampled(patches: Patches, kept: jax.Array, key: jax.Array) -> Patches:
    """Of each row's patches as many as `kept` [b] says, drawn at random; the others are as if not there."""
    scores = jax.random.uniform(key, patches.mask.shape)
    ranks = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
    return patches._replace(mask=patches.mask & (ranks < kept[:, None]))


def _middle(size: int) -> jax.Array:
    at = jnp.arange(size)
    return (at >= size // 4) & (at < size // 4 + size // 2)


def _embedding_init(config: BiomedGptConfig) -> Callable[..., jax.Array]:
    normal = jax.nn.initializers.normal(config.init_std)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        rows = jnp.arange(shape[0])
        learns = (rows != PAD) & (rows < config.vocab_size)
        return jnp.where(learns[:, None], normal(key, shape, dtype), 0)

    return init
