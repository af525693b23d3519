"""The encoder of a VQ-GAN with a Gumbel quantiser: a picture becomes a grid of codes (arXiv 2012.09841).

Axis letters: b pictures, h w pixels or places, c channels, n codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from biomedgpt_jax.core.module import Functional, param
from biomedgpt_jax.core.types import Params

_NHWC = ("NHWC", "HWIO", "NHWC")


@dataclass(frozen=True)
class VqganConfig:
    """Facts about one encoder; none has a default, so none can be forgotten."""

    channels: int  # of the first level
    multipliers: tuple[int, ...]  # of channels, by level; between levels the size halves
    attention: tuple[bool, ...]  # by level, behind each of its blocks
    blocks: int  # of a level
    latent: int  # channels behind the encoder
    width: int  # of a code's vector, and of what is quantised
    codes: int
    groups: int  # of channels, that a norm takes together
    eps: float

    @property
    def stride(self) -> int:
        """Pixels per side that a code stands for."""
        return 2 ** (len(self.multipliers) - 1)


# taming-transformers' Gumbel f8 with 8192 codes. Its attention is where a picture of 256 has 32 places a side.
GUMBEL_F8 = VqganConfig(
    channels=128,
    multipliers=(1, 1, 2, 4),
    attention=(False, False, False, True),
    blocks=2,
    latent=256,
    width=256,
    codes=8192,
    groups=32,
    eps=1e-6,
)


def make_code_reader(config: VqganConfig) -> Callable[[Params, UInt8[Array, "b h w 3"]], Int[Array, "b n"]]:
    """A pure function from parameters and pictures to their codes, int32, row by row.

    The most likely code of each place is taken, where the published code draws one at random.
    """
    model = vqgan_functions(config)

    def codes(params: Params, images: UInt8[Array, "b h w 3"]) -> Int[Array, "b n"]:
        pixels = images.astype(jnp.float32) / 255 * 2 - 1
        found = model.bind(params)(pixels).argmax(axis=-1).astype(jnp.int32)
        return found.reshape(found.shape[0], -1)

    return codes


def vqgan_functions(config: VqganConfig) -> "Functional[VqganEncoder]":
    return Functional(lambda rngs: VqganEncoder(config, rngs=rngs))


class VqganEncoder(nnx.Module):
    """Pixels from -1 to 1 -> logits over the codes."""

    def __init__(self, config: VqganConfig, *, rngs: nnx.Rngs):
        widths = [config.channels * each for each in config.multipliers]
        before = [config.channels, *widths]
        self.conv_in = Conv(3, 3, config.channels, rngs=rngs)
        for level, (channels, width) in enumerate(zip(before, widths, strict=False)):
            last = level == len(widths) - 1
            setattr(self, f"level{level}", Level(channels, width, config, config.attention[level], last, rngs=rngs))
        self.middle = Middle(widths[-1], config, rngs=rngs)
        self.norm_out = GroupNorm(widths[-1], config, rngs=rngs)
        self.conv_out = Conv(3, widths[-1], config.latent, rngs=rngs)
        self.to_quantise = Conv(1, config.latent, config.width, rngs=rngs)
        self.code_logits = Conv(1, config.width, config.codes, rngs=rngs)
        self.levels = len(widths)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w n"]:
        x = self.conv_in(x)
        for level in range(self.levels):
            x = getattr(self, f"level{level}")(x)
        x = self.middle(x)
        x = self.conv_out(jax.nn.silu(self.norm_out(x)))
        return self.code_logits(self.to_quantise(x))


class Level(nnx.Module):
    """Blocks of one size, and the halving behind them."""

    def __init__(self, channels: int, width: int, config: VqganConfig, attends: bool, last: bool, *, rngs: nnx.Rngs):
        for number in range(config.blocks):
            setattr(self, f"block{number}", Block(channels if number == 0 else width, width, config, rngs=rngs))
            if attends:
                setattr(self, f"attention{number}", Attention(width, config, rngs=rngs))
        self.halve = None if last else Conv(3, width, width, rngs=rngs)
        self.blocks, self.attends = config.blocks, attends

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        for number in range(self.blocks):
            x = getattr(self, f"block{number}")(x)
            if self.attends:
                x = getattr(self, f"attention{number}")(x)
        # Padded below and to the right alone.
        return x if self.halve is None else self.halve(x, stride=2, padding=((0, 1), (0, 1)))


class Middle(nnx.Module):
    def __init__(self, width: int, config: VqganConfig, *, rngs: nnx.Rngs):
        self.block0 = Block(width, width, config, rngs=rngs)
        self.attention = Attention(width, config, rngs=rngs)
        self.block1 = Block(width, width, config, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.block1(self.attention(self.block0(x)))


class Block(nnx.Module):
    """x + two 3x3 convolutions of x, each behind a norm; x is projected where the channels change."""

    def __init__(self, channels: int, width: int, config: VqganConfig, *, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(channels, config, rngs=rngs)
        self.conv1 = Conv(3, channels, width, rngs=rngs)
        self.norm2 = GroupNorm(width, config, rngs=rngs)
        self.conv2 = Conv(3, width, width, rngs=rngs)
        self.shortcut = None if channels == width else Conv(1, channels, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w _c"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Attention(nnx.Module):
    """One head over all places."""

    def __init__(self, width: int, config: VqganConfig, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(width, config, rngs=rngs)
        self.q = Conv(1, width, width, rngs=rngs)
        self.k = Conv(1, width, width, rngs=rngs)
        self.v = Conv(1, width, width, rngs=rngs)
        self.out = Conv(1, width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        normed = self.norm(x)
        b, h, w, c = x.shape
        q, k, v = (each(normed).reshape(b, h * w, c) for each in (self.q, self.k, self.v))
        shares = jax.nn.softmax(jnp.einsum("bsc,btc->bst", q, k) * c**-0.5, axis=-1)
        mixed = jnp.einsum("bst,btc->bsc", shares, v).reshape(b, h, w, c)
        return x + self.out(mixed)


class GroupNorm(nnx.Module):
    """Normalises groups of neighbouring channels over all places, then scale and bias."""

    def __init__(self, width: int, config: VqganConfig, *, rngs: nnx.Rngs):
        self.scale = param(rngs, (width,), ("norm",), jax.nn.initializers.ones)
        self.bias = param(rngs, (width,), ("norm",), jax.nn.initializers.zeros)
        self.groups, self.eps = config.groups, config.eps

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        grouped = x.reshape(*x.shape[:3], self.groups, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean((1, 2, 4), keepdims=True) + self.eps)
        return normed.reshape(x.shape) * self.scale[...] + self.bias[...]


class Conv(nnx.Module):
    """A square convolution with bias; without `padding`, its output is as large as its input."""

    def __init__(self, size: int, channels: int, outputs: int, *, rngs: nnx.Rngs):
        axes = (None, None, None, None)
        self.kernel = param(rngs, (size, size, channels, outputs), axes, jax.nn.initializers.lecun_normal())
        self.bias = param(rngs, (outputs,), ("norm",), jax.nn.initializers.zeros)

    def __call__(
        self, x: Float[Array, "b h w c"], *, stride: int = 1, padding: tuple[tuple[int, int], ...] | None = None
    ) -> Float[Array, "b _h _w _c"]:
        edge = self.kernel.shape[0] // 2
        padding = padding or ((edge, edge), (edge, edge))
        y = jax.lax.conv_general_dilated(x, self.kernel[...], (stride, stride), padding, dimension_numbers=_NHWC)
        return y + self.bias[...]
