"""From uint8 images to the features that a connector takes: one tower or two, at one scale or several.

Axis letters: b images, h w pixels, n tokens, c channels (towers and scales side by side).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models.s2 import S2Config, multiscale, tokens_out
from biomedgpt_jax.models.vit import Features, Interpolation, Vit, VitConfig, leaves_without_gradient


@dataclass(frozen=True)
class VisionConfig:
    """A tower, or a mixture of two (MoF: CLIP and DINOv2), the scales, and the features taken.

    Both towers of a mixture see the same pixels, normalised for the first, as published.
    """

    tower: VitConfig
    second: VitConfig | None
    s2: S2Config
    features: Features

    def __post_init__(self):
        grids = {self.s2.tile // tower.patch for tower in self.towers}
        if len(grids) > 1:
            raise UsageError(
                f"The two towers give {sorted(grids)} patches per side of a {self.s2.tile} pixel tile; "
                "they can be mixed only at sizes where the numbers are equal."
            )
        for tower in self.towers:
            if tower.interpolation is Interpolation.REFUSE and tower.image_size != self.s2.tile:
                raise UsageError(
                    f"S2 scales {self.s2.scales}: the smallest must be {tower.image_size}, the size of "
                    f"the tower, found {self.s2.tile}. Multiples of {tower.image_size} fit it."
                )

    @property
    def towers(self) -> tuple[VitConfig, ...]:
        return (self.tower,) if self.second is None else (self.tower, self.second)


class TowerPair(nnx.Module):
    """The two towers of a mixture of features."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        first, second = config.towers
        self.first = Vit(first, rngs=rngs)
        self.second = Vit(second, rngs=rngs)


def make_tower(config: VisionConfig, *, rngs: nnx.Rngs) -> Vit | TowerPair:
    """The parameters: `tower/...`, or `tower/first/...` and `tower/second/...` when put under `tower`."""
    return Vit(config.tower, rngs=rngs) if config.second is None else TowerPair(config, rngs=rngs)


def encode_images(
    tower: Vit | TowerPair,
    config: VisionConfig,
    images: UInt8[Array, "b h w 3"],
    *,
    dtype: DTypeLike,
    remat: Remat,
) -> Float[Array, "b n c"]:
    """Features in `dtype`; `n` is `tokens_per_image`, `c` is `sum(feature_widths)`.

    Raises:
        UsageError: images of another size than `image_size`.
    """
    towers = (tower.first, tower.second) if isinstance(tower, TowerPair) else (tower,)
    pixels = normalise(images, config.tower.mean, config.tower.std)
    features = [
        multiscale(
            lambda tiles, vit=vit: vit(tiles.astype(dtype), config.features, remat=remat),
            pixels,
            config.s2,
            prefix_tokens=_prefix_tokens(config, vit.config),
        )
        for vit in towers
    ]
    return jnp.concatenate(features, axis=-1)


def make_encoder(config: VisionConfig, *, compute_dtype: DTypeLike) -> Callable[[Params, jax.Array], jax.Array]:
    """`encode(tower parameters, uint8 images [b h w 3]) -> features [b n c]`, for a tower that is not trained."""
    model = Functional(lambda rngs: make_tower(config, rngs=rngs))

    def encode(params: Params, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        return encode_images(model.bind(params), config, images, dtype=compute_dtype, remat=Remat.NONE)

    return encode


def normalise(
    images: UInt8[Array, "b h w 3"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Array, "b h w 3"]:
    """(x / 255 - mean) / std in float32."""
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def image_size(config: VisionConfig) -> int:
    """Pixels per side that prepared images must have."""
    return config.s2.image_size


def tokens_per_image(config: VisionConfig) -> int:
    """Features per image before the connector.

    Raises:
        UsageError: two towers whose kept prefixes differ in length.
    """
    grid = config.s2.tile // config.tower.patch
    counts = {tokens_out(config.s2, grid, _prefix_tokens(config, tower)) for tower in config.towers}
    if len(counts) > 1:
        raise UsageError(
            f"The two towers give {sorted(counts)} tokens per image, because their class and register "
            "tokens are kept; set keep_prefix to False to mix them."
        )
    return counts.pop()


def feature_widths(config: VisionConfig) -> tuple[int, ...]:
    """Channels of each tower: its width times the number of scales."""
    return tuple(tower.width * len(config.s2.scales) for tower in config.towers)


def vision_leaves_without_gradient(config: VisionConfig) -> frozenset[str]:
    """Paths below `tower` that a trained tower leaves without a gradient; see `leaves_without_gradient`."""
    if config.second is None:
        return leaves_without_gradient(config.tower, config.features)
    return frozenset(
        f"{name}/{path}"
        for name, tower in zip(("first", "second"), config.towers, strict=True)
        for path in leaves_without_gradient(tower, config.features)
    )


def _prefix_tokens(config: VisionConfig, tower: VitConfig) -> int:
    return tower.prefix_tokens if config.features.keep_prefix else 0
