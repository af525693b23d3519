"""S2, scaling on scales: one tower over tiles of several sizes of the same image.

Shi et al. 2024, arXiv 2403.13043. Axis letters: b images, S pixels of the largest scale, t tiles of all
scales, p pixels of a tile, n tokens of a tile, m map rows or columns, c channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import parts_of, shard

Tower = Callable[[Float[Array, "t p p 3"]], Float[Array, "t n c"]]


class MapSize(Enum):
    """The grid to which the maps of all scales are brought."""

    SMALLEST = "smallest"
    LARGEST = "largest"  # as many tokens as the largest scale has


@dataclass(frozen=True)
class S2Config:
    """Scales in pixels, ascending; the smallest is the size of a tile. One scale is plain encoding."""

    scales: tuple[int, ...]
    output: MapSize

    def __post_init__(self):
        if not self.scales or list(self.scales) != sorted(set(self.scales)) or self.scales[0] < 1:
            raise UsageError(f"S2 scales {self.scales}: expected at least one size in pixels, ascending, none twice.")
        for scale in self.scales:
            if scale % self.tile:
                below = scale // self.tile * self.tile
                raise UsageError(
                    f"S2 scales {self.scales}: scale {scale} does not tile by {self.tile}, the smallest "
                    f"scale. The nearest that do are {below} and {below + self.tile}."
                )

    @property
    def tile(self) -> int:
        return self.scales[0]

    @property
    def image_size(self) -> int:
        """Pixels per side that images must have."""
        return self.scales[-1]

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles per side of each scale."""
        return tuple(scale // self.tile for scale in self.scales)

    @property
    def tiles(self) -> int:
        """Tower calls per image: 46 for 224, 672, 1344."""
        return sum(count**2 for count in self.counts)


def parse_scales(text: str) -> tuple[int, ...]:
    """Reads "224,672,1344", in any order, as the official code does.

    Raises:
        UsageError: something that is not a whole number.
    """
    try:
        return tuple(sorted(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f'S2 scales "{text}": expected whole numbers with commas, like "224,672,1344".') from None


def tokens_out(config: S2Config, grid: int, prefix_tokens: int) -> int:
    """Tokens per image of a tower that gives `prefix_tokens` and `grid` x `grid` patches per tile."""
    side = grid * (config.counts[-1] if config.output is MapSize.LARGEST else 1)
    return prefix_tokens + side**2


def multiscale(
    tower: Tower, images: Float[Array, "b S S 3"], config: S2Config, *, prefix_tokens: int
) -> Float[Array, "b n c"]:
    """Features of normalised float32 images: channels [small | middle | large], tokens row by row.

    Prefix tokens, where the tower keeps them, are averaged over the tiles of a scale and come first.

    Raises:
        UsageError: images of another size than the largest scale.
    """
    size = config.image_size
    if images.shape[1:3] != (size, size):
        raise UsageError(
            f"Images are {images.shape[1]} x {images.shape[2]} pixels, expected {size} x {size}, the "
            f"largest of the scales {config.scales}. Prepare them at that size or change the scales."
        )
    features = _tower_once(tower, _tiles(images, config))  # [b t n c]
    bounds = np.cumsum([count**2 for count in config.counts])[:-1]
    scales = jnp.split(features, bounds, axis=1)
    maps = [_merge(tiles[:, :, prefix_tokens:], count) for tiles, count in zip(scales, config.counts, strict=True)]
    side = maps[-1 if config.output is MapSize.LARGEST else 0].shape[1]
    pooled = jnp.concatenate([adaptive_average(each, side) for each in maps], axis=-1)
    patches = rearrange(pooled, "b r c k -> b (r c) k")
    if not prefix_tokens:
        return patches
    prefixes = [_mean_over_tiles(tiles[:, :, :prefix_tokens]) for tiles in scales]
    return jnp.concatenate([jnp.concatenate(prefixes, axis=-1), patches], axis=1)


def adaptive_average(maps: Float[Array, "b m m c"], side: int) -> Float[Array, "b k k c"]:
    """Torch's adaptive average pool, which its 'area' interpolation is; also when it enlarges."""
    if maps.shape[1] == side:
        return maps
    weights = jnp.asarray(_windows(maps.shape[1], side))
    pooled = jnp.einsum(
        "ir,jc,brck->bijk",
        weights,
        weights,
        maps.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return pooled.astype(maps.dtype)


def _tiles(images: Float[Array, "b S S 3"], config: S2Config) -> Float[Array, "b t p p 3"]:
    return jnp.concatenate(
        [
            rearrange(_resize(images, scale), "b (r p) (c q) k -> b (r c) p q k", r=count, c=count)
            for scale, count in zip(config.scales, config.counts, strict=True)
        ],
        axis=1,
    )


def _resize(images: Float[Array, "b S S 3"], scale: int) -> Float[Array, "b s s 3"]:
    """Torch's bicubic: a = -0.75, half-pixel centres, clamped border, no antialias."""
    shape = (images.shape[0], scale, scale, 3)
    return jax.image.resize(images, shape, method="bicubic-pytorch", antialias=False)


def _tower_once(tower: Tower, tiles: Float[Array, "b t p p 3"]) -> Float[Array, "b t n c"]:
    folded = rearrange(tiles, "b t p q k -> (b t) p q k")
    # A rest that the devices cannot share evenly would else be worked on by all of them.
    rest = -folded.shape[0] % parts_of("tiles")
    padded = jnp.pad(folded, ((0, rest), (0, 0), (0, 0), (0, 0))) if rest else folded
    features = tower(shard(padded, "tiles", None, None, None))[: folded.shape[0]]
    return rearrange(features, "(b t) n c -> b t n c", t=tiles.shape[1])


def _merge(tiles: Float[Array, "b t n c"], count: int) -> Float[Array, "b m m c"]:
    grid = round(tiles.shape[2] ** 0.5)
    return rearrange(tiles, "b (R C) (r c) k -> b (R r) (C c) k", R=count, C=count, r=grid, c=grid)


def _mean_over_tiles(prefix: Float[Array, "b t n c"]) -> Float[Array, "b n c"]:
    return prefix.astype(jnp.float32).mean(1).astype(prefix.dtype)


def _windows(size: int, side: int) -> np.ndarray:
    """Row i averages the sources from floor(i size / side) up to ceil((i + 1) size / side)."""
    weights = np.zeros((side, size), np.float32)
    for i in range(side):
        first, last = i * size // side, -(-(i + 1) * size // side)
        weights[i, first:last] = 1 / (last - first)
    return weights
