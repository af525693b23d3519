"""The parts of a Llama3-Med alone, as pure functions: a decoder that reads text, a tower that sees one scale."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.types import Batch, DecodeStep, ModelFns, Params
from biomedgpt_jax.layers.attention import KVCache
from biomedgpt_jax.models.llama import Llama, LlamaConfig
from biomedgpt_jax.models.vision import normalise
from biomedgpt_jax.models.vit import Features, Vit, VitConfig


def make_decoder(config: LlamaConfig, *, compute_dtype: DTypeLike, remat: Remat) -> ModelFns:
    """A decoder alone; of a batch it reads the text."""
    model = Functional(lambda rngs: Llama(config, lora=None, rngs=rngs))

    def forward(params: Params, batch: Batch) -> Float[Array, "b s d"]:
        decoder = model.bind(params)
        x = decoder.embed_tokens(batch["tokens"], compute_dtype)
        return decoder(x, batch["segment_ids"], batch["positions"], remat=remat)

    def unembed(params: Params, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        return model.bind(params).unembed(hidden)

    def head(params: Params) -> Float[Array, "d v"]:
        return model.bind(params).head(compute_dtype)

    def prefill(params: Params, batch: Batch, cache_length: int) -> tuple[Float[Array, "b v"], KVCache]:
        decoder = model.bind(params)
        x = decoder.embed_tokens(batch["tokens"], compute_dtype)
        return decoder.prefill(x, batch["segment_ids"], batch["positions"], cache_length)

    def decode(params: Params) -> DecodeStep:
        decoder = model.bind(params)
        step = decoder.decode_step()
        return lambda tokens, cache: step(decoder.embed_tokens(tokens[:, None], compute_dtype), cache)

    ready = partial(model.ready, turn=True)
    return ModelFns(model.init, model.axes, forward, unembed, head, prefill, decode, ready=ready)


def make_tower_encoder(config: VitConfig, features: Features) -> Callable[[Params, jax.Array], jax.Array]:
    """`encode(parameters, uint8 images [b h w 3]) -> tokens [b n d]` in float32, of the tower at its own size."""
    model = Functional(lambda rngs: Vit(config, rngs=rngs))

    @jax.jit
    def encode(params: Params, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        pixels = normalise(images, config.mean, config.std).astype(jnp.float32)
        return model.bind(params)(pixels, features, remat=Remat.NONE)

    return encode
