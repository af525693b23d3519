"""The encoder of BiomedGPT: patches of an image, then the words of a text, in one sequence.

Axis letters: b rows, t words, p patches, n = p + t places, d width, h heads; of an image, h w pixels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from biomedgpt_jax.core.module import Kept, Remat, keep, param, scan, stack
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.layers.batch_norm import Live
from biomedgpt_jax.layers.dropout import dropout
from biomedgpt_jax.layers.linear import Linear
from biomedgpt_jax.layers.norm import LayerNorm
from biomedgpt_jax.layers.normformer import Noise, NormFormerAttention, NormFormerMlp, add_branch, branch_noises
from biomedgpt_jax.layers.relative_bias import image_bias, text_bias
from biomedgpt_jax.layers.resnet import CHANNELS, Stem
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig, Learning
from biomedgpt_jax.models.biomedgpt_positions import EncoderPositions, position_bias

TEXT, IMAGE = 0, 1  # rows of the type embedding


class Encoded(NamedTuple):
    """All that the decoder reads of a source."""

    hidden: jax.Array  # [b n d]
    mask: jax.Array  # bool [b n], False where nothing stands
    positions: jax.Array  # [n d], normalised


class Patches(NamedTuple):
    """An image as the encoder reads it."""

    features: jax.Array  # [b p d]
    mask: jax.Array  # bool [b p]
    shape: tuple[int, int]  # rows and columns


class LayerBias(NamedTuple):
    """What a layer makes its bias of: all layers' part, and what its own tables are read for."""

    absolute: jax.Array  # [h n n]
    patches: tuple[int, int] | None
    words: int


class Encoder(nnx.Module):
    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        c, init = config, jax.nn.initializers.normal(config.init_std)
        self.stem = Stem(c.stem_width, c.stem_blocks, rngs=rngs)
        features = CHANNELS * c.stem_width
        self.image_projection = Linear(
            (features,), (c.width,), in_axes=("features",), out_axes=("embed",), bias=True, init=init, rngs=rngs
        )
        self.type_embedding = param(rngs, (2, c.width), (None, "embed"), init)
        self.text_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.patch_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.positions = EncoderPositions(c, rngs=rngs)
        self.layers = stack(lambda keys: EncoderLayer(c, rngs=keys), c.encoder_layers, rngs)
        self.norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.config = config

    def patches(
        self, images: Float[Array, "b h w 3"], present: Bool[Array, " b"], live: Live | None, *, remat: Remat
    ) -> tuple[Patches, Any]:
        """Projected features of normalised images, and the stem's running statistics after them."""
        x, statistics = self.stem(images, live, remat=remat)
        b, rows, columns, channels = x.shape
        x = shard(x.reshape(b, rows * columns, channels), "batch", None, None)
        mask = jnp.broadcast_to(present[:, None], x.shape[:2])
        return Patches(self.image_projection(x), mask, (rows, columns)), statistics

    def __call__(
        self,
        words: Float[Array, "b t d"],
        mask: Bool[Array, "b t"],
        patches: Patches | None,
        *,
        remat: Remat,
        learning: Learning | None = None,
        key: jax.Array | None = None,
    ) -> Encoded:
        """Without a key as it answers, with one as it learns."""
        words_key, patches_key, layers_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        rate = 0.0 if learning is None else learning.dropout
        types = self.type_embedding[...].astype(words.dtype)
        x = dropout(self.text_norm(words + types[TEXT]), rate, words_key)
        positions = self.positions.text_norm(self.positions.of_text(words.shape[1], x.dtype))
        if patches is not None:
            pixels = dropout(self.patch_norm(patches.features + types[IMAGE]), rate, patches_key)
            x, mask = jnp.concatenate([pixels, x], axis=1), jnp.concatenate([patches.mask, mask], axis=1)
            of_image = self.positions.image_norm(self.positions.of_image(*patches.shape, x.dtype))
            positions = jnp.concatenate([of_image, positions])
        x = shard(jnp.where(mask[..., None], x, 0), "batch", "length", "activation_embed")
        x = self._run(x, mask, self._bias(positions, patches, words.shape[1]), remat, learning, layers_key)
        return Encoded(self.norm(x), mask, positions)

    def _bias(self, positions: Float[Array, "n d"], patches: Patches | None, words: int) -> LayerBias:
        absolute = position_bias(
            self.positions.q, self.positions.k, positions, positions, scale=self.config.query_scale
        )
        return LayerBias(absolute, None if patches is None else patches.shape, words)

    def _run(self, x: jax.Array, mask: jax.Array, bias: LayerBias, remat: Remat, learning: Any, key: Any) -> jax.Array:
        def one(layer: "EncoderLayer", x: jax.Array, noise: Any) -> tuple[jax.Array, None]:
            return layer(x, mask, bias, None if noise is None else Noise(noise[0], noise[1], learning.dropout)), None

        return scan(self.layers, one, x, layer_noises(self.config.encoder_layers, learning, key), remat=remat)[0]


class EncoderLayer(nnx.Module):
    """x + norm(attention(norm(x))), then x + mlp(norm(x)); with the layer's tables of relative positions."""

    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        c, init = config, jax.nn.initializers.normal(config.init_std)
        self.attention_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.attention = NormFormerAttention(
            c.width, c.heads, scale=c.query_scale, head_scale=c.scale_heads, init=init, rngs=rngs
        )
        self.attention_out_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs) if c.scale_attention else None
        self.mlp_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.mlp = NormFormerMlp(c.width, c.mlp_width, inner_norm=c.scale_mlp, eps=c.norm_eps, init=init, rngs=rngs)
        self.text_bias = param(rngs, (c.text_relations, c.heads), (None, "heads"), init)
        self.image_bias = param(rngs, (c.image_relations, c.heads), (None, "heads"), init)
        self.config = config

    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"], bias: LayerBias, noise: Noise | None
    ) -> Float[Array, "b n d"]:
        x, (first, second) = keep(x, Kept.INPUT), branch_noises(noise, 2)
        y = self.attention_norm(x)
        y, _ = self.attention(y, y, bias=self.bias(bias)[None], mask=mask[:, None])
        x = add_branch(x, y if self.attention_out_norm is None else self.attention_out_norm(y), first)
        return add_branch(x, self.mlp(self.mlp_norm(x)), second)

    def bias(self, given: LayerBias) -> Float[Array, "h n n"]:
        """All layers' part, and this layer's own among words and among patches."""
        c, total = self.config, given.absolute.shape[1]
        words = text_bias(self.text_bias[...], given.words, reach=c.bucket_reach)
        bias = given.absolute + _placed(words, total - given.words, 0)
        if given.patches is not None:
            image = image_bias(self.image_bias[...], given.patches, grid=c.image_grid)
            bias = bias + _placed(image, 0, given.words)
        return bias


def layer_noises(layers: int, learning: Learning | None, key: jax.Array | None) -> Any:
    """Keys and rates of branches [layers], for `Noise`; None where nothing is dropped."""
    if key is None or learning is None:
        return None
    return jax.random.split(key, layers), jnp.linspace(0, learning.drop_path, layers, dtype=jnp.float32)


def _placed(block: Float[Array, "h m m"], before: int, behind: int) -> Float[Array, "h n n"]:
    return jnp.pad(block.astype(jnp.float32), ((0, 0), (before, behind), (before, behind)))
