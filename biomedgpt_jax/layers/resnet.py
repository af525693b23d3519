"""The first three stages of a ResNet (version 1.5), which turn an image into patches of 16 by 16 pixels.

Axis letters: b images, h w pixels or patches, c channels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from biomedgpt_jax.core.module import Remat, param, parameters, scan, stack
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.layers.batch_norm import BatchNorm2d, Live

EPS, MOMENTUM = 1e-5, 0.1  # as published; torch counts momentum so
EXPANSION = 4  # channels behind a block for one inside it
CHANNELS = 4 * EXPANSION  # behind the last stage, for one behind the first convolution

Statistics = dict[str, Any]  # nested by the parameters' names


class Stem(nnx.Module):
    """7x7 convolution, pooling, and three stages of bottleneck blocks; `width` channels behind the convolution."""

    def __init__(self, width: int, blocks: tuple[int, int, int], *, rngs: nnx.Rngs):
        self.conv1 = Conv(7, 3, width, stride=2, rngs=rngs)
        self.norm1 = BatchNorm2d(width, eps=EPS, momentum=MOMENTUM, rngs=rngs)
        self.stage1 = Stage(width, width, blocks[0], stride=1, rngs=rngs)
        self.stage2 = Stage(EXPANSION * width, 2 * width, blocks[1], stride=2, rngs=rngs)
        self.stage3 = Stage(2 * EXPANSION * width, 4 * width, blocks[2], stride=2, rngs=rngs)

    def __call__(
        self, images: Float[Array, "b h w 3"], live: Live | None, *, remat: Remat
    ) -> tuple[Float[Array, "b _h _w _c"], Statistics]:
        """Features of normalised images, computed in the images' dtype, and the running statistics after them."""
        x, statistics = self.norm1(self.conv1(_split(images)), live)
        x, kept = _pool(jax.nn.relu(x)), {"norm1": statistics}
        for name in ("stage1", "stage2", "stage3"):
            x, kept[name] = getattr(self, name)(_split(x), live, remat=remat)
        return x, kept

    def statistics(self) -> Statistics:
        """The running statistics as they are."""
        leaves = leaf_paths(parameters(self))
        names = ("mean", "variance")
        return from_leaf_paths({path: leaf for path, leaf in leaves.items() if path.rsplit("/", 1)[-1] in names})


class Stage(nnx.Module):
    """A block that changes channels and size, and the others, stacked."""

    def __init__(self, channels: int, inside: int, blocks: int, *, stride: int, rngs: nnx.Rngs):
        self.first = Bottleneck(channels, inside, stride=stride, rngs=rngs)
        same = EXPANSION * inside
        make = lambda keys: Bottleneck(same, inside, stride=1, rngs=keys)  # noqa: E731 (one line, used once)
        self.rest = stack(make, blocks - 1, rngs) if blocks > 1 else None

    def __call__(
        self, x: Float[Array, "b h w c"], live: Live | None, *, remat: Remat
    ) -> tuple[Float[Array, "b _h _w _c"], Statistics]:
        x, first = self.first(x, live)
        if self.rest is None:
            return x, {"first": first}
        x, rest = scan(self.rest, lambda block, x, _: block(_split(x), live), x, remat=remat)
        return x, {"first": first, "rest": rest}


class Bottleneck(nnx.Module):
    """relu(x + 1x1, 3x3 and 1x1 convolutions of x), where x is projected if channels or size change."""

    def __init__(self, channels: int, inside: int, *, stride: int, rngs: nnx.Rngs):
        outside = EXPANSION * inside
        norm = {"eps": EPS, "momentum": MOMENTUM, "rngs": rngs}
        self.conv1 = Conv(1, channels, inside, stride=1, rngs=rngs)
        self.norm1 = BatchNorm2d(inside, **norm)
        self.conv2 = Conv(3, inside, inside, stride=stride, rngs=rngs)
        self.norm2 = BatchNorm2d(inside, **norm)
        self.conv3 = Conv(1, inside, outside, stride=1, rngs=rngs)
        self.norm3 = BatchNorm2d(outside, **norm)
        same = channels == outside and stride == 1
        self.downsample = None if same else Conv(1, channels, outside, stride=stride, rngs=rngs)
        self.downsample_norm = None if same else BatchNorm2d(outside, **norm)

    def __call__(self, x: Float[Array, "b h w c"], live: Live | None) -> tuple[Float[Array, "b _h _w _c"], Statistics]:
        kept: Statistics = {}
        y, kept["norm1"] = self.norm1(self.conv1(x), live)
        y, kept["norm2"] = self.norm2(self.conv2(jax.nn.relu(y)), live)
        y, kept["norm3"] = self.norm3(self.conv3(jax.nn.relu(y)), live)
        if self.downsample is not None and self.downsample_norm is not None:
            x, kept["downsample_norm"] = self.downsample_norm(self.downsample(x), live)
        return jax.nn.relu(x + y), kept


class Conv(nnx.Module):
    """A square convolution without bias, padded alike on all sides, as torch.nn.Conv2d(padding=size // 2)."""

    def __init__(self, size: int, channels: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        init = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = param(rngs, (size, size, channels, outputs), (None, None, None, "embed"), init)
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        # Images are split over all devices, so each needs the whole kernel.
        kernel = shard(self.kernel[...].astype(x.dtype), None, None, None, None)
        edge = kernel.shape[0] // 2
        strides, padding = (self.stride, self.stride), ((edge, edge), (edge, edge))
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def patches(pixels: int) -> int:
    """Rows (or columns) of features of an image with so many rows (or columns) of pixels."""
    for _ in range(4):
        pixels = -(-pixels // 2)
    return pixels


def _pool(x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    """The largest of 3x3, at every second pixel."""
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)


def _split(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return shard(x, "tiles", None, None, None)
