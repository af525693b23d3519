"""What attention adds for the distance of two places: OFA's tables for words in a line and patches on a grid.

Distances are those of the query from the key. A table is read once per distance and then laid out by moving whole
rows; no array of places by places is looked up, nor scattered into on the way back.

Axis letters: h heads, r rows of a table, n places, R C rows and columns of a grid.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def text_buckets(places: int, *, buckets: int, reach: int) -> np.ndarray:
    """The table's row for the distances 1 - places to places - 1, int32 [2 places - 1].

    Half of the `buckets` to either side hold one distance each, the others grow up to `reach`; all further distances
    share the last.
    """
    near = buckets // 2
    distance = np.arange(1 - places, places)
    size = np.minimum(np.abs(distance), reach - 1)
    # In float32, as published.
    ratio = np.log(np.maximum(size, near).astype(np.float32) / np.float32(near)) / np.float32(
        math.log((reach - 1) / near)
    )
    far = np.ceil(ratio.astype(np.float32) * np.float32(near - 1)).astype(np.int32) + near
    return (np.sign(distance) * np.where(size <= near, size, far) + buckets - 1).astype(np.int32)


def image_buckets(ids: np.ndarray, *, grid: int) -> np.ndarray:
    """The table's row for each pair (query, key) of places, int32 [n n].

    Args:
        ids: row * grid + column + 1 of each place; 0 is the beginning of a target.
        grid: rows and columns that the table knows; the last three rows are for the beginning as query, key, both.
    """
    rows, columns = np.divmod(np.maximum(ids, 1) - 1, grid)
    span = 2 * grid - 1
    found = (rows[:, None] - rows + grid - 1) * span + columns[:, None] - columns + grid - 1
    begins = ids == 0
    found = np.where(begins[:, None], span**2, found)
    found = np.where(begins[None, :], span**2 + 1, found)
    return np.where(begins[:, None] & begins[None, :], span**2 + 2, found).astype(np.int32)


def text_bias(table: Float[Array, "r h"], places: int, *, reach: int) -> Float[Array, "h n n"]:
    """The bias of each query (next to last axis) and key (last), among words in a line."""
    rows = text_buckets(places, buckets=(table.shape[0] + 1) // 2, reach=reach)
    return toeplitz(table[rows].T)


def image_bias(table: Float[Array, "r h"], shape: tuple[int, int], *, grid: int) -> Float[Array, "h n n"]:
    """The bias among the patches of an image of `shape` (rows, columns), row by row."""
    (rows, columns), span = shape, 2 * grid - 1
    distances = table[: span**2].reshape(span, span, -1)
    near = distances[grid - rows : grid + rows - 1, grid - columns : grid + columns - 1]  # 2R-1 2C-1 h
    by_column = toeplitz(jnp.moveaxis(near, -1, 0))  # h 2R-1 C C
    by_row = toeplitz(jnp.moveaxis(by_column, 1, -1))  # h C C R R
    return by_row.transpose(0, 3, 1, 4, 2).reshape(-1, rows * columns, rows * columns)


def code_bias(table: Float[Array, "r h"], places: int, *, codes: int, grid: int) -> Float[Array, "h n n"]:
    """The bias among the beginning and then the codes of a square picture of `codes` rows; 0 behind them."""
    ends = table[-3:].T[..., None, None]  # h 3 1 1
    among = image_bias(table, (codes, codes), grid=grid)
    row = jnp.broadcast_to(ends[:, 0], (among.shape[0], 1, codes**2))
    column = jnp.broadcast_to(ends[:, 1], (among.shape[0], codes**2, 1))
    whole = jnp.concatenate(
        [jnp.concatenate([ends[:, 2], row], axis=2), jnp.concatenate([column, among], axis=2)], axis=1
    )[:, :places, :places]
    missing = places - whole.shape[1]
    return jnp.pad(whole, ((0, 0), (0, missing), (0, missing)))


def toeplitz(values: Float[Array, "... m"]) -> Float[Array, "... n n"]:
    """`out[i, j] = values[i - j + n - 1]` for m = 2 n - 1 values."""
    n = (values.shape[-1] + 1) // 2
    earlier, later = values[..., :n][..., ::-1], values[..., n:][..., ::-1]
    row = jnp.concatenate([earlier, jnp.zeros_like(values[..., :1]), later], axis=-1)
    # One place less than the row holds: each next row begins one place later.
    repeated = jnp.broadcast_to(row[..., None, :], (*row.shape[:-1], n, 2 * n)).reshape(*row.shape[:-1], -1)
    return repeated[..., : n * (2 * n - 1)].reshape(*row.shape[:-1], n, 2 * n - 1)[..., :n]
