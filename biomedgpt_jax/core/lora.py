"""Low-rank adapters on frozen, possibly quantised kernels, by Qwix. The only file that knows Qwix.

Beside each adapted kernel [*in *out] stand `kernel_lora_a` [in r] and `kernel_lora_b` [r out]; its
output grows by alpha / r * (x a) b. A quantised kernel becomes `kernel/array/{qvalue,scale}`; the bits of
4-bit values are kept as int4, because Orbax stores no uint4, and `cast_for_compute` gives them back to Qwix.

There is no dropout: Qwix 0.1.8 cannot switch it off, so evaluation would be random.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from jax.typing import DTypeLike

from biomedgpt_jax.core.module import Functional, parameters
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths, map_with_path
from biomedgpt_jax.core.types import Params

M = TypeVar("M", bound=nnx.Module)


class BaseWeights(Enum):
    """How the adapted kernels are stored."""

    FLOAT = None  # as they are
    INT8 = "int8"
    NF4 = "nf4"  # 4-bit normal float


@dataclass(frozen=True)
class Lora:
    rank: int
    alpha: float
    targets: str  # regular expression of module paths inside a block, e.g. "attention/(q|v)"
    base: BaseWeights
    tile: int | None  # inputs that share a scale in a quantised kernel; None: one scale per output


def adapt(block: M, lora: Lora, *inputs: Any, rngs: nnx.Rngs) -> M:
    """The block with adapters on all targets; with b = 0 its float form computes what it did before.

    To be called on a single block, inside `stack()`: Qwix cannot adapt layers that are already stacked.
    `inputs` are any valid arguments of the block; Qwix finds the kernels by watching the call.

    Raises:
        ValueError: no module path matches `lora.targets`.
    """
    rule = qwix.LoraRule(
        module_path=lora.targets,
        rank=lora.rank,
        alpha=lora.alpha,
        weight_qtype=lora.base.value,
        tile_size=lora.tile,
        lora_a_initializer=_A_INIT,
    )
    adapted = cast(M, qwix.apply_lora_to_model(block, qwix.LoraProvider([rule]), *inputs, rngs=rngs))
    found = 0
    for path, variable in nnx.to_flat_state(nnx.state(adapted, nnx.Param)):
        name = str(path[-1])
        variable.set_value(_retyped(variable.get_value(), jnp.uint4, jnp.int4))
        if name in _ADAPTERS:
            axes = [axis if axis == "embed" else "lora_width" for axis in variable.get_metadata()["out_sharding"]]
            axes[_ADAPTERS[name]] = "lora_rank"
            variable.set_metadata(out_sharding=tuple(axes))
            found += 1
    if not found:
        raise ValueError(f"LoRA targets {lora.targets!r} match no linear module of {type(block).__name__}.")
    return adapted


def adapt_layers(
    make_block: Callable[[nnx.Rngs], M], lora: Lora, layers: Params, *inputs: Any, key: jax.Array
) -> Params:
    """Stacked parameters of plain blocks -> those of adapted blocks, quantised where `lora` says so.

    New adapters and scales are float32; kernels that stay float keep their dtype.
    """
    plain = Functional(make_block)

    def adapt_one(params: Params, key: jax.Array) -> Params:
        return parameters(adapt(plain.bind(params), lora, *inputs, rngs=nnx.Rngs(params=key)))

    count = next(iter(leaf_paths(layers).values())).shape[0]
    adapted = jax.vmap(adapt_one)(layers, jax.random.split(key, count))
    return map_with_path(
        lambda path, leaf: leaf.astype(jnp.float32) if is_adapter(path) or _is_scale(path) else leaf, adapted
    )


def is_adapter(path: str) -> bool:
    """Whether a parameter path is that of a LoRA factor."""
    return path.rsplit("/", 1)[-1] in _ADAPTERS


def begins_behind_zero(path: str) -> bool:
    """Whether a leaf has no gradient until another has left zero: `a`, which `b` = 0 multiplies."""
    return path.endswith("_lora_a")


def cast_for_compute(params: Params, dtype: DTypeLike) -> Params:
    """Parameters as Qwix multiplies them: adapters and scales in the activations' dtype, 4-bit values as uint4."""

    def computable(path: str, leaf: jax.Array) -> jax.Array:
        if is_adapter(path) or _is_scale(path):
            return leaf.astype(dtype)
        return _retyped(leaf, jnp.int4, jnp.uint4)

    # Layers that are apart are a tuple.
    return map_with_path(lambda path, leaf: jax.tree.map(partial(computable, path), leaf), params)


def merge_lora(params: Params, lora: Lora) -> Params:
    """Parameters of the plain model that computes the same: each kernel plus its adapters' product.

    Takes the whole tree or some of its leaves, such as one kernel with its adapters. Kernels keep their
    dtype; quantised ones come back in float32.
    """
    leaves = leaf_paths(params)
    merged = leaf_paths(without_lora(params, lora))
    for a in [path for path in leaves if path.endswith("_lora_a")]:
        path = a.removesuffix("_lora_a")
        merged[path] = _add_product(merged[path], leaves[a], leaves[f"{path}_lora_b"], lora.alpha / lora.rank)
    return from_leaf_paths(merged)


def without_lora(params: Params, lora: Lora) -> Params:
    """Parameters of the plain model below the adapters; quantised kernels come back in float32."""
    leaves = leaf_paths(cast_for_compute(params, jnp.float32))
    plain = {path: leaf for path, leaf in leaves.items() if not is_adapter(path)}
    for path in [path.removesuffix("/array/qvalue") for path in plain if path.endswith("/array/qvalue")]:
        quantised = plain.pop(f"{path}/array/qvalue"), plain.pop(f"{path}/array/scale")
        plain[path] = jax.vmap(lambda q, scale: _dequantise(q, scale, lora))(*quantised)
    return from_leaf_paths(plain)


@jax.jit
def _add_product(kernels: jax.Array, a: jax.Array, b: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Kernels [l *in *out] + factor * a [l i r] b [l r o]; layer by layer, which bounds the memory."""

    def add(layer: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        kernel, a, b = layer
        product = jnp.einsum("ir,ro->io", a, b, precision=jax.lax.Precision.HIGHEST) * factor
        return (kernel.astype(jnp.float32) + product.reshape(kernel.shape)).astype(kernel.dtype)

    return jax.lax.map(add, (kernels, a, b))


def _is_scale(path: str) -> bool:
    return path.endswith("/array/scale")


def _retyped(x: jax.Array, old: DTypeLike, new: DTypeLike) -> jax.Array:
    """The same bits under another type, where `x` has the old one."""
    return jax.lax.bitcast_convert_type(x, new) if x.dtype == old else x


def _dequantise(qvalue: jax.Array, scale: jax.Array, lora: Lora) -> jax.Array:
    assert lora.base.value is not None  # a float kernel has no qvalue
    return qwix.dequantize(qwix.QArray(qvalue, scale, None, lora.base.value))


# Each factor's rank axis.
_ADAPTERS = {"kernel_lora_a": -1, "kernel_lora_b": 0}

# Uniform in +-1/sqrt(inputs), as in peft.
_A_INIT = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
