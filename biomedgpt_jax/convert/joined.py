"""Tensors of several sources as one, under other names."""

from collections.abc import Callable, Iterator

import numpy as np

from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.core.errors import RunError


class Joined(Tensors):
    """Each source with the function that renames its tensors; a name that two sources have is the later one's.

    Raises:
        RunError: two tensors of one source get the same name.
    """

    def __init__(self, *sources: tuple[Tensors, Callable[[str], str]]):
        self.files = tuple(file for tensors, _ in sources for file in tensors.files)
        self._stored: dict[str, tuple[Tensors, str]] = {}
        for tensors, rename in sources:
            names: dict[str, str] = {}
            for key in tensors:
                name = rename(key)
                if name in names:
                    files = ", ".join(str(file.path) for file in tensors.files)
                    raise RunError(f"{files}: tensors {names[name]} and {key} are both {name}; expected one of them.")
                names[name] = key
            self._stored |= {name: (tensors, key) for name, key in names.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        tensors, key = self._stored[name]
        return tensors[key]

    def shape(self, key: str) -> tuple[int, ...]:
        tensors, stored = self._stored[key]
        return tensors.shape(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)
