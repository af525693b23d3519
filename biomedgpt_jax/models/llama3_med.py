"""Llama3-Med: vision tower at several scales -> connector -> image features among the text -> decoder.

Axis letters: b rows, s tokens, i image slots of a row, h w pixels, n features of an image, c their channels,
d decoder width, v vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.lora import Lora, cast_for_compute, is_adapter
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.core.types import Batch, DecodeStep, ModelFns, Params
from biomedgpt_jax.layers.attention import KVCache
from biomedgpt_jax.models import llama, vision
from biomedgpt_jax.models.connector import ConnectorConfig, connector_tokens, make_connector
from biomedgpt_jax.models.llama import Llama, LlamaConfig
from biomedgpt_jax.models.vision import VisionConfig


@dataclass(frozen=True)
class Llama3MedConfig:
    vision: VisionConfig
    connector: ConnectorConfig
    decoder: LlamaConfig

    def __post_init__(self):
        if self.connector.out_width != self.decoder.width:
            raise UsageError(
                f"The connector gives {self.connector.out_width} channels, the decoder takes {self.decoder.width}."
            )

    @property
    def image_size(self) -> int:
        """Pixels per side of the images in a batch."""
        return vision.image_size(self.vision)

    @property
    def tokens_per_image(self) -> int:
        """Places that an image takes in a row."""
        return connector_tokens(self.connector, vision.tokens_per_image(self.vision))


@dataclass(frozen=True)
class PartRemat:
    """What the backward pass computes again, part by part; a frozen tower has none."""

    tower: Remat
    decoder: Remat


NO_REMAT = PartRemat(Remat.NONE, Remat.NONE)


def make_llama3_med(
    config: Llama3MedConfig, *, compute_dtype: DTypeLike, remat: PartRemat, lora: Lora | None
) -> ModelFns:
    """The model as pure functions; parameters live under tower/, connector/ and decoder/.

    A batch whose rows have no image slot (i = 0) is text only and works; empty slots never change a result.
    """
    model = Functional(lambda rngs: Llama3Med(config, lora=lora, rngs=rngs))
    compute_dtype = jnp.dtype(compute_dtype)

    def bind(params: Params) -> Llama3Med:
        return model.bind(cast_for_compute(params, compute_dtype))

    def forward(params: Params, batch: Batch) -> Float[Array, "b s d"]:
        bound = bind(params)
        x = bound.inputs(batch, dtype=compute_dtype, remat=remat.tower)
        return bound.decoder(x, batch["segment_ids"], batch["positions"], remat=remat.decoder)

    def unembed(params: Params, hidden: Float[Array, "... d"]) -> Float[Array, "... v"]:
        return bind(params).decoder.unembed(hidden)

    def head(params: Params) -> Float[Array, "d v"]:
        return bind(params).decoder.head(compute_dtype)

    def prefill(params: Params, batch: Batch, cache_length: int) -> tuple[Float[Array, "b v"], KVCache]:
        bound = bind(params)
        x = bound.inputs(batch, dtype=compute_dtype, remat=Remat.NONE)
        return bound.decoder.prefill(x, batch["segment_ids"], batch["positions"], cache_length)

    def decode(params: Params) -> DecodeStep:
        decoder = bind(params).decoder
        step = decoder.decode_step()
        return lambda tokens, cache: step(decoder.embed_tokens(tokens[:, None], compute_dtype), cache)

    # Qwix knows its kernels by their axes.
    ready = partial(model.ready, turn=lora is None)
    return ModelFns(model.init, model.axes, forward, unembed, head, prefill, decode, ready=ready)


def add_lora(config: Llama3MedConfig, lora: Lora, params: Params, key: jax.Array) -> Params:
    """Parameters of the plain model -> those of the model made with `lora`; computes the same at first.

    With quantised base weights "the same" holds up to their rounding. Runs under jit.
    """
    return {**params, "decoder": llama.add_lora(config.decoder, lora, params["decoder"], key)}


class Llama3Med(nnx.Module):
    def __init__(self, config: Llama3MedConfig, *, lora: Lora | None, rngs: nnx.Rngs):
        self.tower = vision.make_tower(config.vision, rngs=rngs)
        self.connector = make_connector(config.connector, rngs=rngs)
        self.decoder = Llama(config.decoder, lora=lora, rngs=rngs)
        self.config = config

    def inputs(self, batch: Batch, *, dtype: DTypeLike, remat: Remat) -> Float[Array, "b s d"]:
        """What the decoder reads: token embeddings, with image features where `image_index` says so."""
        x = self.decoder.embed_tokens(batch["tokens"], dtype)
        if _slots(batch).shape[1] == 0:
            return x
        connected = self.connector(self._encoded(batch, dtype, remat))
        features = rearrange(connected, "(b i) n d -> b (i n) d", b=x.shape[0])
        return splice(x, shard(features, "batch", None, "activation_embed"), batch["image_index"])

    def _encoded(self, batch: Batch, dtype: DTypeLike, remat: Remat) -> Float[Array, "images n c"]:
        """What the connector takes: the tower's features, computed here or already in the batch."""
        held = _slots(batch)
        if "features" in batch:
            return rearrange(held, "b i n c -> (b i) n c").astype(dtype)
        flat = shard(rearrange(held, "b i h w c -> (b i) h w c"), "tiles", None, None, None)
        return vision.encode_images(self.tower, self.config.vision, flat, dtype=dtype, remat=remat)


def splice(
    x: Float[Array, "b s d"], features: Float[Array, "b m d"], image_index: Int[Array, "b s"]
) -> Float[Array, "b s d"]:
    """`features[image_index]` where the index is not negative, else `x`.

    An index beyond the features gives NaN, so that the loss shows it, and never another feature.
    """
    index = jnp.maximum(image_index, 0)[..., None]
    taken = jnp.take_along_axis(features, index, axis=1, mode="fill", fill_value=jnp.nan)
    return jnp.where((image_index >= 0)[..., None], taken.astype(x.dtype), x)


def _slots(batch: Batch) -> jax.Array:
    """The image slots of the rows [b i ...]: images, or features in their place."""
    if "features" in batch:
        return batch["features"]
    if "images" in batch:
        return batch["images"]
    raise UsageError(f"The batch holds neither images nor features; it has {', '.join(sorted(batch))}.")


class Tune(Enum):
    """What is trained of the decoder."""

    FULL = "full"
    LORA = "lora"
    FROZEN = "frozen"


def trainable(config: Llama3MedConfig, *, tower: bool, connector: bool, decoder: Tune) -> Callable[[str], bool]:
    """A predicate on parameter paths, for `core.partition.split`.

    Leaves of the tower that the chosen features never reach (such as the norm behind a skipped last
    block) have no gradient and stay frozen.
    """
    unreached = {f"tower/{path}" for path in vision.vision_leaves_without_gradient(config.vision)}
    parts: dict[str, Callable[[str], bool]] = {
        "tower": lambda path: tower and path not in unreached,
        "connector": lambda path: connector,
        "decoder": lambda path: decoder is Tune.FULL or (decoder is Tune.LORA and is_adapter(path)),
    }
    return lambda path: parts[path.split("/", 1)[0]](path)
