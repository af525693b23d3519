"""BatchNorm over pixels, its running statistics as input and output.

Axis letters: b images, h w pixels, c channels, g groups of images that are normalised together.
"""

import math
from enum import Enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from biomedgpt_jax.core.module import param
from biomedgpt_jax.core.sharding import shard, spec_for

Statistics = dict[str, jax.Array]  # mean and variance, float32 [c]


class BatchNorm(Enum):
    """Whose mean and variance normalise while a model learns. As it answers, the running ones always do."""

    LOCAL = "local"  # of the images of each device
    SYNCED = "synced"  # of the whole batch
    FROZEN = "frozen"  # the running ones, which then stay as they are


class Live(NamedTuple):
    """The images whose statistics normalise: those of weight 1, in `groups` equal parts of the batch."""

    weights: jax.Array  # float32 [b], 0 for an image that is none
    groups: int


def live(mode: BatchNorm, weights: Float[Array, " b"]) -> Live | None:
    """What `BatchNorm2d` takes while the model learns, in each mode."""
    if mode is BatchNorm.FROZEN:
        return None
    return Live(weights, _devices(weights.shape[0]) if mode is BatchNorm.LOCAL else 1)


class BatchNorm2d(nnx.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias for each channel, as torch.nn.BatchNorm2d.

    A batch is normalised with its biased variance, its unbiased one enters the running statistics, with the weight
    `momentum`. Several groups enter with their mean; one without images is normalised with the running statistics.
    """

    def __init__(self, channels: int, *, eps: float, momentum: float, rngs: nnx.Rngs):
        ones, zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros
        self.scale = param(rngs, (channels,), ("norm",), ones)
        self.bias = param(rngs, (channels,), ("norm",), zeros)
        self.mean = param(rngs, (channels,), ("norm",), zeros)
        self.variance = param(rngs, (channels,), ("norm",), ones)
        self.eps = eps
        self.momentum = momentum

    def __call__(self, x: Float[Array, "b h w c"], live: Live | None) -> tuple[Float[Array, "b h w c"], Statistics]:
        """The result, and the running statistics after this batch; without `live` they are used and stay."""
        running = {"mean": self.mean[...].astype(jnp.float32), "variance": self.variance[...].astype(jnp.float32)}
        if live is None:
            return self._normalised(x.astype(jnp.float32), **running).astype(x.dtype), running
        h, w, c = x.shape[1:]
        groups = shard(x.astype(jnp.float32).reshape(live.groups, -1, h, w, c), "tiles", None, None, None, None)
        weights = live.weights.reshape(live.groups, -1)
        pixels = weights.sum(1, keepdims=True) * h * w  # g 1
        weighted = weights[:, :, None, None, None]
        mean = (weighted * groups).sum((1, 2, 3)) / jnp.maximum(pixels, 1)
        centred = groups - mean[:, None, None, None]
        variance = (weighted * jnp.square(centred)).sum((1, 2, 3)) / jnp.maximum(pixels, 1)
        found = {"mean": mean, "variance": variance * pixels / jnp.maximum(pixels - 1, 1)}
        used = {
            name: jnp.where(pixels > 0, each, running[name])[:, None, None, None]
            for name, each in (("mean", mean), ("variance", variance))
        }
        y = self._normalised(groups, **used).reshape(x.shape).astype(x.dtype)
        return y, {name: self._moved(running[name], found[name], pixels > 0) for name in running}

    def _normalised(self, x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
        factor = jax.lax.rsqrt(variance + self.eps) * self.scale[...]
        return (x - mean) * factor + self.bias[...]

    def _moved(self, running: jax.Array, found: Float[Array, "g c"], seen: jax.Array) -> Float[Array, " c"]:
        """A step from the running value towards the mean of the groups that have images."""
        groups = seen.sum()
        mean = jnp.where(seen, found, 0).sum(0) / jnp.maximum(groups, 1)
        step = jnp.where(groups > 0, self.momentum, 0.0)
        return jax.lax.stop_gradient(running + step * (mean - running))


def _devices(images: int) -> int:
    """Over how many devices the mesh set by `jax.set_mesh` lays so many images."""
    split = spec_for((images,), "tiles")
    axes = () if split is None else split[0] or ()
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))
