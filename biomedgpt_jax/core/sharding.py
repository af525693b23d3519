"""The one table from logical axes to mesh axes, and the one place that makes a mesh.

Mesh axes: `data` (across slices, data-center network), `fsdp`, `tensor`, `context`.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.types import AxesTree

MESH_AXES = ("data", "fsdp", "tensor", "context")

RULES: dict[str, str | tuple[str, ...] | None] = {
    # activations
    "batch": ("data", "fsdp"),
    "tiles": ("data", "fsdp", "tensor", "context"),  # tower crops of all scales, folded into one batch
    "length": "context",
    "activation_embed": None,
    "activation_heads": "tensor",
    "activation_mlp": "tensor",
    "activation_vocab": "tensor",
    # parameters
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "norm": None,
    "features": None,  # widths inside tower stems and connectors that no mesh axis divides well
    "lora_rank": None,
}


@dataclass(frozen=True)
class MeshShape:
    """Devices along each mesh axis; one of them may be -1: what is left."""

    data: int
    fsdp: int
    tensor: int
    context: int


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """Lays the devices (`jax.Device`, a class without type stubs) out on the four mesh axes.

    Raises:
        UsageError: the shape does not use all devices exactly, or two axes are -1.
    """
    devices = jax.devices() if devices is None else devices
    filled = _fill(shape, len(devices))
    return jax.make_mesh(astuple(filled), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Translates logical axes; a misspelt one raises KeyError naming the table."""
    unknown = [axis for axis in axes if axis is not None and axis not in RULES]
    if unknown:
        raise KeyError(f"Unknown logical axes {unknown}; core/sharding.py RULES has {sorted(RULES)}.")
    return PartitionSpec(*(None if axis is None else RULES[axis] for axis in axes))


def shardings(mesh: Mesh, axes: AxesTree, shapes: Any = None) -> Any:
    """NamedShardings for a tree of logical axes.

    With `shapes` (a tree of the same nesting whose leaves have `.shape`), a dimension that the mesh
    does not divide is replicated; the ledger shows it.
    """
    leaves = leaf_paths(axes)
    sized = leaf_paths(shapes) if shapes is not None else {}
    return from_leaf_paths(
        {
            path: NamedSharding(mesh, _divisible(mesh, spec(leaf), sized[path].shape) if sized else spec(leaf))
            for path, leaf in leaves.items()
        }
    )


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains `x` to the rules under the mesh set by `jax.set_mesh`; without a mesh, returns `x`."""
    partition = spec_for(x.shape, *axes)
    return x if partition is None else jax.lax.with_sharding_constraint(x, partition)


def spec_for(shape: tuple[int, ...], *axes: str | None) -> PartitionSpec | None:
    """How the mesh set by `jax.set_mesh` splits an array of this shape; None without a mesh."""
    partition = spec(axes)
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else _divisible(mesh, partition, shape)


def is_split(axis: str) -> bool:
    """Whether the mesh set by `jax.set_mesh` lays a logical axis over several devices."""
    mesh, names = jax.sharding.get_abstract_mesh(), RULES[axis]
    group = (names,) if isinstance(names, str) else tuple(names or ())
    return not mesh.empty and math.prod(mesh.shape[name] for name in group) > 1


def target_platform() -> str:
    """What the code being traced will run on, "cpu", "tpu" or "gpu": the platform of the mesh set by `jax.set_mesh`.

    A program may be compiled ahead of time for devices that this machine does not have; without a mesh it is for
    those that it has.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def _fill(shape: MeshShape, count: int) -> MeshShape:
    sizes = {name: size for name, size in zip(MESH_AXES, astuple(shape), strict=True)}
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UsageError(f"Mesh {sizes}: at most one axis may be -1, found {free}.")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free and known > 0 and count % known == 0:
        return replace(shape, **{free[0]: count // known})
    if not free and known == count:
        return shape
    raise UsageError(
        f"Mesh {sizes} does not fit {count} devices: the sizes multiply to {known}. "
        "Set one axis to -1 to take what is left, or choose sizes that divide the device count."
    )


def _divisible(mesh: Any, partition: PartitionSpec, shape: tuple[int, ...]) -> PartitionSpec:
    """Drops the mesh axes that do not divide their dimension, largest usable prefix kept."""
    kept = []
    for size, names in zip(shape, partition, strict=True):
        group = (names,) if isinstance(names, str) else tuple(names or ())
        while group and size % math.prod(mesh.shape[name] for name in group):
            group = group[:-1]
        kept.append(group or None)
    return PartitionSpec(*kept)
