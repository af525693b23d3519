"""Parameters by path, each read from where it lies when it is asked for, stacked ones layer by layer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.types import Params

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Leaves(Mapping[str, np.ndarray]):
    """`leaves[path]` and `leaves.layers(path)` read; shapes and dtypes are known before."""

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, np.dtype]  # of what `read` gives
    read: Callable[[str], np.ndarray]
    layers: Callable[[str], Iterator[np.ndarray]]  # slices along the first axis, in order

    def __getitem__(self, path: str) -> np.ndarray:
        if path not in self.shapes:
            raise KeyError(path)
        return self.read(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def dtype(self) -> np.dtype:
        """The narrowest that holds all leaves exactly."""
        return reduce(np.promote_types, self.dtypes.values())

    @property
    def count(self) -> int:
        """Parameters in all."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


def in_memory(params: Params) -> Leaves:
    """The leaves of a nested dict of arrays."""
    leaves = leaf_paths(params)
    return Leaves(
        {path: tuple(leaf.shape) for path, leaf in leaves.items()},
        {path: np.dtype(leaf.dtype) for path, leaf in leaves.items()},
        lambda path: np.asarray(leaves[path]),
        lambda path: iter(np.asarray(leaves[path])),
    )


def cast(leaves: Leaves, dtype: str) -> Leaves:
    """All in one dtype, rounded to the nearest as they are read."""
    kind = np.dtype(dtype)
    return Leaves(
        leaves.shapes,
        dict.fromkeys(leaves.shapes, kind),
        lambda path: leaves.read(path).astype(kind, copy=False),
        lambda path: (layer.astype(kind, copy=False) for layer in leaves.layers(path)),
    )


def below(leaves: Leaves, prefix: str) -> Leaves:
    """The leaves of one part, "decoder/", by their paths inside it."""
    inside = {path.removeprefix(prefix): path for path in leaves.shapes if path.startswith(prefix)}
    return Leaves(
        {path: leaves.shapes[whole] for path, whole in inside.items()},
        {path: leaves.dtypes[whole] for path, whole in inside.items()},
        lambda path: leaves.read(inside[path]),
        lambda path: leaves.layers(inside[path]),
    )
