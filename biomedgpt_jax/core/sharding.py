"""The one table from logical axes to mesh axes, and the one place that makes a mesh.

Mesh axes: `data` (across slices, data-center network), `fsdp`, `tensor`, `context`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.types import AxesTree

MESH_AXES = ("data", "fsdp", "tensor", "context")

RULES: dict[str, str | tuple[str, ...] | None] = {
    # activations
    "batch": ("data", "fsdp"),
    "parts": ("data", "fsdp", "context"),  # of rows, where a row lies on several devices
    "tiles": ("data", "fsdp", "tensor", "context"),  # images, or tower crops of all scales, as one batch
    "length": "context",
    "slice": "data",  # rows, while `columns` splits what fsdp splits of them
    "columns": "fsdp",
    "activation_embed": None,
    "activation_heads": "tensor",
    "activation_mlp": "tensor",
    "activation_vocab": "tensor",
    # parameters
    "layers": None,
    "embed": ("fsdp", "context"),
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "norm": None,
    "features": None,  # widths inside tower stems and connectors that no mesh axis divides well
    "lora_rank": None,
    "lora_width": ("tensor", "fsdp", "context"),  # the other axis of an adapter, where it is not `embed`
}

# A dimension that the mesh does not divide stays whole if then each device holds no more of the array.
SMALL = 2**24  # elements
# Dimensions that are never kept whole, because the activations are split with them (`heads` are so many times these).
NEVER_WHOLE = ("kv_heads",)


@dataclass(frozen=True)
class MeshShape:
    """Devices along each mesh axis; one of them may be -1: what is left."""

    data: int
    fsdp: int
    tensor: int
    context: int


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """Lays the devices (`jax.Device`, a class without type stubs) out on the four mesh axes.

    Of several TPU slices, each holds whole parts of the axis `data`: all else stays on the links inside a slice.

    Raises:
        UsageError: the shape does not use all devices exactly, two axes are -1, or `data` does not divide over slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = astuple(mesh_sizes(shape, len(devices)))
    return Mesh(_grid(sizes, devices), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_sizes(shape: MeshShape, count: int) -> MeshShape:
    """The shape with what -1 stands for among `count` devices.

    Raises:
        UsageError: see `make_mesh`.
    """
    sizes = asdict(shape)
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UsageError(f"Mesh {sizes}: at most one axis may be -1, found {free}.")
    wrong = [f"{name}={size}" for name, size in sizes.items() if size < 1 and name not in free]
    if wrong:
        raise UsageError(f"Mesh {wrong[0]}: expected 1 or more devices, or -1 on one axis for what is left.")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free and count % known == 0:
        return replace(shape, **{free[0]: count // known})
    if not free and known == count:
        return shape
    largest = max((name for name in sizes if name not in free), key=lambda name: sizes[name])
    others = known // sizes[largest]
    # With the other sizes as they are, where these can be.
    room = count // others if count % others == 0 else count
    fitting = [size for size in range(1, room + 1) if (room % size == 0 if free else size == room)]
    raise UsageError(
        f"Mesh {largest}={sizes[largest]} does not fit {count} devices: the sizes {sizes} multiply to {known}; nearest "
        f"that fit: {nearest(sizes[largest], fitting)}. One axis may be -1 to take what is left."
    )


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Translates logical axes; a misspelt one raises KeyError naming the table."""
    unknown = [axis for axis in axes if axis is not None and axis not in RULES]
    if unknown:
        raise KeyError(f"Unknown logical axes {unknown}; core/sharding.py RULES has {sorted(RULES)}.")
    return PartitionSpec(*(None if axis is None else RULES[axis] for axis in axes))


def shardings(mesh: Mesh, axes: AxesTree, shapes: Any = None) -> Any:
    """NamedShardings for a tree of logical axes.

    With `shapes` (a tree of the same nesting whose leaves have `.shape`), a dimension that the mesh
    does not divide is replicated; the ledger shows it, and `check_divides` refuses it where it matters.
    """
    leaves = leaf_paths(axes)
    sized = leaf_paths(shapes) if shapes is not None else {}
    return from_leaf_paths(
        {
            path: NamedSharding(mesh, _divisible(mesh.shape, spec(leaf), sized[path].shape) if sized else spec(leaf))
            for path, leaf in leaves.items()
        }
    )


def check_divides(mesh: Mesh, axes: AxesTree, shapes: Any) -> None:
    """Refuses a mesh under which a large array would lie whole on devices that were to share it.

    Raises:
        UsageError: naming the axis, both sizes, the array, and the nearest sizes of the axis that fit.
    """
    sized = leaf_paths(shapes)
    leaves = [(path, names, sized[path].shape) for path, names in leaf_paths(axes).items()]
    for found in _left_whole(mesh.shape, leaves):
        divisors = [size for size in range(1, mesh.size + 1) if mesh.size % size == 0]
        fitting = [
            size
            for size in divisors
            if all(other.axis != found.axis for other in _left_whole({**mesh.shape, found.axis: size}, leaves))
        ]
        size = mesh.shape[found.axis]
        raise UsageError(
            f"Mesh {found.axis}={size} does not divide the {found.size} {found.name} of {found.path} "
            f"{list(found.shape)}; nearest that fit: {nearest(size, fitting)}. config.mesh: {dict(mesh.shape)}."
        )


def nearest(found: int, fitting: Iterable[int]) -> str:
    """The next smaller and the next larger of `fitting`, in words."""
    fitting = sorted(fitting)
    below, above = [size for size in fitting if size < found], [size for size in fitting if size > found]
    return ", ".join(str(size) for size in (*below[-1:], *above[:1]))


def spec_for(shape: tuple[int, ...], *axes: str | None) -> PartitionSpec | None:
    """How the mesh set by `jax.set_mesh` splits an array of this shape; None without a mesh."""
    partition, mesh = spec(axes), jax.sharding.get_abstract_mesh()
    return None if mesh.empty else _divisible(mesh.shape, partition, shape)


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains `x` to the rules under the mesh set by `jax.set_mesh`; without a mesh, returns `x`."""
    partition = spec_for(x.shape, *axes)
    return x if partition is None else jax.lax.with_sharding_constraint(x, partition)


def is_split(axis: str) -> bool:
    """Whether the mesh set by `jax.set_mesh` lays a logical axis over several devices."""
    return parts_of(axis) > 1


def parts_of(axis: str) -> int:
    """Over how many devices the mesh set by `jax.set_mesh` lays a logical axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[name] for name in _group(RULES[axis]))


def target_platform() -> str:
    """What the code being traced will run on, "cpu", "tpu" or "gpu": the platform of the mesh set by `jax.set_mesh`.

    A program may be compiled ahead of time for devices that this machine does not have; without a mesh it is for
    those that it has.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def _grid(sizes: tuple[int, ...], devices: Sequence[Any]) -> Any:
    """The devices as an array of these sizes, neighbours along the last axes nearest to each other."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    data = sizes[0]
    # To jax each host of GPUs is a slice; there `data` goes over hosts where it can, and fsdp may too.
    if slices > 1 and data % slices == 0:
        dcn = (slices, *(1 for _ in sizes[1:]))
        inside = (data // slices, *sizes[1:])
        return _placed(partial(mesh_utils.create_hybrid_device_mesh, inside, dcn, devices))
    if slices > 1 and devices[0].platform == "tpu":
        fitting = [size for size in range(slices, len(devices) + 1, slices) if len(devices) % size == 0]
        raise UsageError(
            f"Mesh data={data} does not divide over {slices} slices; nearest that fit: {nearest(data, fitting)}."
        )
    return _placed(partial(mesh_utils.create_device_mesh, sizes, devices))


def _placed(place: Callable[..., Any]) -> Any:
    try:
        return place()
    except NotImplementedError:
        # An axis of the mesh needs a part of an axis of the chips, as tensor=2 on 8x8.
        return place(allow_split_physical_axes=True)


class _Whole(NamedTuple):
    """A dimension that one mesh axis was to split and does not."""

    axis: str
    name: str
    size: int
    path: str
    shape: tuple[int, ...]


def _left_whole(sizes: Mapping[str, int], leaves: Sequence[tuple[str, tuple, tuple[int, ...]]]) -> Iterator[_Whole]:
    """Dimensions left whole though the array is not small."""
    for path, names, shape in leaves:
        wanted = spec(names)
        found = _divisible(sizes, wanted, shape)
        held = math.prod(shape) // math.prod(sizes[axis] for group in found for axis in _group(group))
        for name, size, want, got in zip(names, shape, wanted, found, strict=True):
            if name is not None and (held > SMALL or name in NEVER_WHOLE):
                dropped = (axis for axis in _group(want) if axis not in _group(got) and sizes[axis] > 1)
                yield from (_Whole(axis, name, size, path, shape) for axis in dropped)


def _divisible(sizes: Mapping[str, int], partition: PartitionSpec, shape: tuple[int, ...]) -> PartitionSpec:
    """Drops the mesh axes that do not divide their dimension, largest usable prefix kept."""
    kept = []
    for size, names in zip(shape, partition, strict=True):
        group = _group(names)
        while group and size % math.prod(sizes[name] for name in group):
            group = group[:-1]
        kept.append(group or None)
    return PartitionSpec(*kept)


def _group(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())
