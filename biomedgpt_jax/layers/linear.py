"""Dense projections and embeddings, one weight per module (so that adapters can find it)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from biomedgpt_jax.core.module import Initializer, Turned, param
from biomedgpt_jax.core.sharding import is_split, shard, target_platform

Axes = tuple[str | None, ...]

FEW_ROWS = 8


class Linear(nnx.Module):
    """Contracts the last `len(in_shape)` dimensions of the input with a kernel [*in_shape *out_shape]."""

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        *,
        in_axes: Axes,
        out_axes: Axes,
        bias: bool,
        init: Initializer,
        rngs: nnx.Rngs,
        bias_init: Initializer = jax.nn.initializers.zeros,
    ):
        self.kernel = param(rngs, (*in_shape, *out_shape), (*in_axes, *out_axes), init, inputs=len(in_shape))
        self.bias = param(rngs, out_shape, out_axes, bias_init) if bias else None
        self.in_rank = len(in_shape)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        kernel = self.kernel[...]
        if isinstance(kernel, Turned):
            leading = x.shape[: x.ndim - self.in_rank]
            y = contract(x.reshape(*leading, kernel.array.shape[1]), kernel.array.astype(x.dtype), (1,))
            y = y.reshape(*leading, *kernel.outputs)
        else:
            if kernel.dtype != x.dtype:  # a kernel quantised by core/lora.py already has it
                kernel = kernel.astype(x.dtype)
            y = contract(x, kernel, tuple(range(self.in_rank)))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Embedding(nnx.Module):
    """A table [v d], read by row."""

    def __init__(self, vocab_size: int, width: int, *, init: Initializer, rngs: nnx.Rngs):
        self.embedding = param(rngs, (vocab_size, width), ("vocab", "embed"), init)

    def __call__(self, ids: Int[Array, "b s"], dtype: DTypeLike) -> Float[Array, "b s d"]:
        """Each device looks its columns up for all rows of its slice, so that rows travel and never the table."""
        table = shard(self.embedding[...], "vocab", "columns")
        found = shard(jnp.take(table, shard(ids, "slice", "length"), axis=0), "slice", "length", "columns")
        return shard(found.astype(dtype), "batch", "length", "activation_embed")


def contract(
    x: Float[Array, "..."], kernel: Any, axes: tuple[int, ...], accumulate: DTypeLike | None = None
) -> Float[Array, "..."]:
    """The last dimensions of `x` against `axes` of the kernel, summed in (and returned as) `accumulate`.

    The kernel is an array, or what core/lora.py puts in the place of one that it quantised.
    """
    leading = x.shape[: x.ndim - len(axes)]
    if not is_split("length"):
        # One leading axis: over two, XLA's CPU backend makes the kernel's gradient from transposed copies. To a TPU
        # or GPU it is the same product. Axes that are split over different devices must stay apart.
        x = x.reshape(-1, *x.shape[len(leading) :])
        if axes == (1,) and 1 < len(x) <= FEW_ROWS and target_platform() == "cpu":
            return _few_rows(x, kernel, accumulate).reshape(*leading, -1)
    first = x.ndim - len(axes)
    dimensions = ((tuple(range(first, x.ndim)), axes), ((), ()))
    y = jax.lax.dot_general(x, kernel, dimensions, preferred_element_type=accumulate)
    return y.reshape(*leading, *y.shape[first:])


def _few_rows(x: Float[Array, "r i"], kernel: Float[Array, "o i"], accumulate: DTypeLike | None) -> Float[Array, "r o"]:
    """The kernel against rows that are padded to a power of two.

    So XLA's CPU backend is fastest: of 8 rows and [14848 3072] in 16 ms, where rows against the kernel take 22. The
    barrier keeps it from turning the product back.
    """
    rows = jnp.pad(x, ((0, (1 << (len(x) - 1).bit_length()) - len(x)), (0, 0)))
    y = jax.lax.dot_general(kernel, rows, (((1,), (1,)), ((), ())), preferred_element_type=accumulate)
    return jax.lax.optimization_barrier(y).T[: len(x)]


def torch_uniform(fan_in: int) -> Initializer:
    """PyTorch's default for Linear weights and biases: uniform in +-1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
