"""Learned positions that enter attention as a bias of their own, the same in all layers of a side.

Axis letters: n m places, d width, h heads, k head width.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import param
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.layers.linear import Linear
from biomedgpt_jax.layers.norm import LayerNorm
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig

UNUSED = 2  # rows at the end of the table of text positions that no text reaches


class Positions(nnx.Module):
    """The tables of one side."""

    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        c, init = config, jax.nn.initializers.normal(config.init_std)
        self.text = param(rngs, (c.text_positions, c.width), (None, "embed"), init)
        self.image = param(rngs, (c.image_positions, c.width), (None, "embed"), init)
        self.text_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.image_norm = LayerNorm(c.width, eps=c.norm_eps, rngs=rngs)
        self.config = config

    def of_text(self, places: int, dtype: DTypeLike) -> Float[Array, "n d"]:
        """The first rows of the table.

        Raises:
            UsageError: a text longer than the table.
        """
        rows = self.text.shape[0] - UNUSED
        if places > rows:
            raise UsageError(
                f"A text of {places} tokens does not fit the model's {rows} positions: shorten it, or import the "
                "weights with a longer table (extend_positions)."
            )
        return self.text[...][:places].astype(dtype)

    def of_image(self, rows: int, columns: int, dtype: DTypeLike) -> Float[Array, "n d"]:
        """The positions of an image's patches.

        Raises:
            UsageError: more of them than the table knows.
        """
        grid = self.config.image_grid
        if max(rows, columns) > grid:
            raise UsageError(
                f"An image of {rows} x {columns} patches is too large: the model knows {grid} x {grid} patches of "
                f"16 pixels, so images of up to {16 * grid} pixels."
            )
        return self.image[...][grid_ids(rows, columns, grid)].astype(dtype)

    def of_codes(self, places: int, dtype: DTypeLike) -> Float[Array, "n d"]:
        """The positions of a beginning and the codes of a picture."""
        return self.image[...][code_ids(self.config, places)].astype(dtype)


class EncoderPositions(Positions):
    """With what makes queries and keys of them."""

    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.q, self.k = _projection(config, rngs), _projection(config, rngs)


class DecoderPositions(Positions):
    """With what makes queries and keys of them, among themselves and for the source's."""

    def __init__(self, config: BiomedGptConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.self_q, self.self_k = _projection(config, rngs), _projection(config, rngs)
        self.cross_q, self.cross_k = _projection(config, rngs), _projection(config, rngs)


def position_bias(
    queries: Linear, keys: Linear, of_queries: Float[Array, "n d"], of_keys: Float[Array, "m d"], *, scale: float
) -> Float[Array, "h n m"]:
    """What attention adds for two places whatever stands there, float32."""
    q, k = queries(of_queries), keys(of_keys)
    bias = jnp.einsum("nhk,mhk->hnm", q, k, preferred_element_type=jnp.float32) * scale
    return shard(bias, "activation_heads", None, None)


def grid_ids(rows: int, columns: int, grid: int) -> np.ndarray:
    """The table's rows for an image of so many rows and columns of patches, int32 [n]."""
    return (np.arange(rows)[:, None] * grid + np.arange(columns) + 1).astype(np.int32).reshape(-1)


def code_ids(config: BiomedGptConfig, places: int) -> np.ndarray:
    """The table's rows for a target of codes, int32 [n]: the beginning, the codes, behind them the published one."""
    codes = grid_ids(config.code_grid, config.code_grid, config.image_grid)
    behind = np.full(max(places - codes.size - 1, 0), min(1024, config.image_positions - 1), np.int32)
    return np.concatenate([np.zeros(1, np.int32), codes, behind])[:places]


def extend_positions(params: Params, config: BiomedGptConfig, places: int) -> tuple[Params, BiomedGptConfig]:
    """The model for texts of up to `places` tokens: its tables of text positions are stretched.

    Row i of the new table is read at i (old - 1) / (new - 1) of the old one, linearly between two rows. Relative
    positions need nothing: distances from `bucket_reach` on share a bucket. A model must be trained further after
    this, as all positions but the first have moved.

    Raises:
        UsageError: fewer places than there are.
    """
    old = config.text_positions - UNUSED
    if places < old:
        raise UsageError(f"The model has {old} text positions; they can be extended but not cut to {places}.")
    at = np.arange(places) * ((old - 1) / max(places - 1, 1))
    below = np.minimum(at.astype(np.int32), old - 2)
    share = jnp.asarray(at - below, jnp.float32)[:, None]

    def stretched(table: jax.Array) -> jax.Array:
        wide = table.astype(jnp.float32)
        between = wide[below] * (1 - share) + wide[below + 1] * share
        return jnp.concatenate([between, wide[old:]]).astype(table.dtype)

    def side(part: Params) -> Params:
        return {**part, "positions": {**part["positions"], "text": stretched(part["positions"]["text"])}}

    extended = {**params, "encoder": side(params["encoder"]), "decoder": side(params["decoder"])}
    return extended, replace(config, text_positions=places + UNUSED)


def _projection(config: BiomedGptConfig, rngs: nnx.Rngs) -> Linear:
    init = jax.nn.initializers.normal(config.init_std)
    axes = {"in_axes": ("embed",), "out_axes": ("heads", "head_dim")}
    return Linear((config.width,), (config.heads, config.head_dim), **axes, bias=True, init=init, rngs=rngs)
