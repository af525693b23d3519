"""One vision transformer for CLIP, SigLIP, DINOv2 and H-optimus-0; their differences are fields.

Axis letters: b images or tiles, h w pixels, r c patch rows and columns, p patch pixels, n tokens,
d width, k head width.
"""

from dataclasses import dataclass
from enum import Enum

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import Kept, Remat, keep, param, scan, stack
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.layers.attention import attention
from biomedgpt_jax.layers.linear import Linear
from biomedgpt_jax.layers.mlp import Activation, GatedMlp, Mlp
from biomedgpt_jax.layers.norm import LayerNorm

INIT = jax.nn.initializers.normal(0.02)


class Positions(Enum):
    """What the position table covers."""

    PATCHES = "patches"
    CLASS_AND_PATCHES = "class_and_patches"  # row 0 belongs to the class token


class Interpolation(Enum):
    """What to do with the position table when the patch grid is not the stored one."""

    REFUSE = "refuse"
    BICUBIC = "bicubic"  # torch: a = -0.75, no antialias
    BICUBIC_ANTIALIAS = "bicubic_antialias"  # torch with antialias: a = -0.5


@dataclass(frozen=True)
class VitConfig:
    """Facts about one tower; none has a default, so none can be forgotten."""

    image_size: int  # native pixels per side; the position table has (image_size // patch)^2 patches
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int  # of the MLP; of each half where it is gated
    act: Activation
    gated: bool  # SwiGLU
    pre_norm: bool  # CLIP normalises the embeddings before the first block
    patch_bias: bool
    qkv_bias: bool
    class_token: bool
    registers: int
    positions: Positions
    interpolation: Interpolation
    layer_scale: float | None  # initial value, or None: the blocks have no layer scale
    eps: float
    mean: tuple[float, float, float]  # of pixels in 0..1, per channel
    std: tuple[float, float, float]

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the patches: the class token, then the registers."""
        return int(self.class_token) + self.registers

    @property
    def grid(self) -> int:
        """Patches per side at the native size; a rest of the image smaller than a patch is cut off."""
        return self.image_size // self.patch


@dataclass(frozen=True)
class Features:
    """Which activations a tower gives.

    `layer` counts like `hidden_states` of Hugging Face: 1 is the output of the first block, -1 that of
    the last, -2 that of the last but one. Blocks behind it are not run.
    """

    layer: int
    final_norm: bool
    keep_prefix: bool  # class and register tokens stay in front of the patches


class Vit(nnx.Module):
    """Computes in the dtype of its input."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        width = config.width
        rows = config.grid**2 + int(config.positions is Positions.CLASS_AND_PATCHES)
        self.patch_embed = Linear(
            (config.patch, config.patch, 3),
            (width,),
            in_axes=(None, None, None),
            out_axes=("embed",),
            bias=config.patch_bias,
            init=INIT,
            rngs=rngs,
        )
        self.cls_token = param(rngs, (width,), ("embed",), INIT) if config.class_token else None
        self.register_tokens = (
            param(rngs, (config.registers, width), (None, "embed"), INIT) if config.registers else None
        )
        self.position_embedding = param(rngs, (rows, width), (None, "embed"), INIT)
        self.pre_norm = LayerNorm(width, eps=config.eps, rngs=rngs) if config.pre_norm else None
        self.layers = stack(lambda keys: Block(config, rngs=keys), config.depth, rngs)
        self.post_norm = LayerNorm(width, eps=config.eps, rngs=rngs)
        self.config = config

    def __call__(self, images: Float[Array, "b h w 3"], features: Features, *, remat: Remat) -> Float[Array, "b n d"]:
        """Tokens of normalised images.

        Raises:
            UsageError: an image size that the position table does not allow, or no such layer.
        """
        x = self._embed(images)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        x, _ = scan(
            self.layers,
            lambda block, x, _: (shard(block(x), "tiles", None, None), None),
            shard(x, "tiles", None, None),
            remat=remat,
            stop=blocks_run(self.config, features),
        )
        if features.final_norm:
            x = self.post_norm(x)
        return x if features.keep_prefix else x[:, self.config.prefix_tokens :]

    def _embed(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        p = self.config.patch
        rows, columns = images.shape[1] // p, images.shape[2] // p
        whole = images[:, : rows * p, : columns * p]
        patches = self.patch_embed(rearrange(whole, "b (r p) (c q) k -> b (r c) p q k", p=p, q=p))
        class_position, patch_positions = self._positions(rows, columns)
        tokens = [patches + patch_positions.astype(patches.dtype)]
        if self.register_tokens is not None:
            tokens.insert(0, self._repeat(self.register_tokens[...], patches))
        if self.cls_token is not None:
            tokens.insert(0, self._repeat(self.cls_token[...] + class_position, patches))
        return jnp.concatenate(tokens, axis=1)

    def _positions(self, rows: int, columns: int) -> tuple[jax.Array | float, jax.Array]:
        """The class token's position [d] (0 without one) and those of the patches [r*c d]."""
        table, config = self.position_embedding[...], self.config
        with_class = config.positions is Positions.CLASS_AND_PATCHES
        class_position = table[0] if with_class else 0.0
        patches = table[int(with_class) :]
        if (rows, columns) == (config.grid, config.grid):
            return class_position, patches
        if config.interpolation is Interpolation.REFUSE:
            raise UsageError(
                f"The tower takes images of {config.image_size} pixels ({config.grid} x {config.grid} "
                f"patches of {config.patch}), found {rows} x {columns} patches. Choose scales whose "
                f"smallest is {config.image_size}, or a tower that interpolates its positions (DINOv2)."
            )
        stored = patches.astype(jnp.float32).reshape(config.grid, config.grid, -1)
        antialias = config.interpolation is Interpolation.BICUBIC_ANTIALIAS
        resized = jax.image.resize(
            stored,
            (rows, columns, config.width),
            method="bicubic" if antialias else "bicubic-pytorch",
            antialias=antialias,
        )
        return class_position, resized.reshape(rows * columns, -1)

    @staticmethod
    def _repeat(tokens: jax.Array, like: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
        tokens = jnp.atleast_2d(tokens).astype(like.dtype)
        return jnp.broadcast_to(tokens, (like.shape[0], *tokens.shape))


class Block(nnx.Module):
    """x + scale1 * attention(norm1(x)), then x + scale2 * mlp(norm2(x))."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.width, eps=config.eps, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = LayerNorm(config.width, eps=config.eps, rngs=rngs)
        mlp = GatedMlp if config.gated else Mlp
        self.mlp = mlp(config.width, config.hidden, act=config.act, bias=True, init=INIT, rngs=rngs)
        self.scale1 = self._layer_scale(config, rngs)
        self.scale2 = self._layer_scale(config, rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = keep(x, Kept.INPUT)
        x = x + self._scaled(self.scale1, self.attention(self.norm1(x)))
        return x + self._scaled(self.scale2, self.mlp(self.norm2(x)))

    @staticmethod
    def _layer_scale(config: VitConfig, rngs: nnx.Rngs) -> nnx.Param | None:
        if config.layer_scale is None:
            return None
        return param(rngs, (config.width,), ("norm",), jax.nn.initializers.constant(config.layer_scale))

    @staticmethod
    def _scaled(scale: nnx.Param | None, branch: jax.Array) -> jax.Array:
        return branch if scale is None else branch * scale[...].astype(branch.dtype)


class Attention(nnx.Module):
    """Every token sees every token."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        heads = (config.heads, config.width // config.heads)
        inward = {
            "in_axes": ("embed",),
            "out_axes": ("heads", "head_dim"),
            "bias": config.qkv_bias,
            "init": INIT,
            "rngs": rngs,
        }
        self.q = Linear((config.width,), heads, **inward)
        self.k = Linear((config.width,), heads, **inward)
        self.v = Linear((config.width,), heads, **inward)
        self.out = Linear(
            heads,
            (config.width,),
            in_axes=("heads", "head_dim"),
            out_axes=("embed",),
            bias=True,
            init=INIT,
            rngs=rngs,
        )
        self.scale = heads[1] ** -0.5

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        q, k, v = (keep(project(x), Kept.QKV) for project in (self.q, self.k, self.v))
        return self.out(attention(q, k, v, scale=self.scale))


def blocks_run(config: VitConfig, features: Features) -> int:
    """How many of the `depth` blocks this choice of features needs.

    Raises:
        UsageError: the tower has no such layer.
    """
    index = features.layer if features.layer > 0 else config.depth + 1 + features.layer
    if not 1 <= index <= config.depth or features.layer == 0:
        raise UsageError(
            f"The tower has {config.depth} blocks, so feature layers 1 to {config.depth} or -1 to "
            f"{-config.depth}; found {features.layer}."
        )
    return index


def leaves_without_gradient(config: VitConfig, features: Features) -> frozenset[str]:
    """Leaves of a trained tower whose gradient is zero under this choice of features.

    Keys shifted by one vector leave every softmax as it is, so the key bias never matters (its computed
    gradient is rounding noise). Of all stacked leaves, the slices of blocks that are not run are zero too.
    """
    unused = {"layers/attention/k/bias"} if config.qkv_bias else set()
    if not features.final_norm:
        unused |= {"post_norm/scale", "post_norm/bias"}
    return frozenset(unused)
