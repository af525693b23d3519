"""An export read back by our own importer, and compared with what was exported, bit for bit, leaf by leaf."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.checkpoint.stream import in_order
from biomedgpt_jax.convert.export_adapter import adapter_rules, read_adapter
from biomedgpt_jax.convert.importer import ModelConfig, import_folder
from biomedgpt_jax.convert.leaves import Leaves, cast
from biomedgpt_jax.convert.mapping import Slice
from biomedgpt_jax.convert.torch_model import architecture_of
from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.llama3_med import Llama3MedConfig


@dataclass(frozen=True)
class Reimport:
    passed: bool
    leaves: int
    unequal: tuple[str, ...]  # paths whose bits differ, or that one side lacks


def reimport(folder: str | Path, leaves: Leaves, config: ModelConfig) -> Reimport:
    """Compares a folder with the leaves that it was written from.

    Raises:
        RunError: the folder cannot be read, or its configuration is another.
    """
    imported = import_folder(folder)
    differences = _differences(to_json(imported.config), to_json(config))
    if differences:
        raise RunError(f"{folder}: its configuration is another than that of the model: {'; '.join(differences)}.")
    return _compare(imported.slices, leaves)


def reimport_adapter(folder: str | Path, base: Path, adapters: Leaves, config: Llama3MedConfig) -> Reimport:
    """The same for the factors of an adapter whose base model lies in `base`.

    Raises:
        RunError: tensors that are missing or left over.
    """
    rules = adapter_rules(config, architecture_of(base), adapters.shapes)
    factors = read_adapter(Path(folder), rules, adapters.shapes)
    return _compare(((path, None, array) for path, array in factors.items()), cast(adapters, "float32"))


def both(first: Reimport, second: Reimport) -> Reimport:
    unequal = (*first.unequal, *second.unequal)
    return Reimport(first.passed and second.passed, first.leaves + second.leaves, unequal)


def _compare(found: Iterable[Slice], expected: Leaves) -> Reimport:
    """Slices of a leaf come in the order of its layers, as they were written."""
    unequal, seen = set(), set()
    layers: dict[str, Iterator[tuple[int, np.ndarray]]] = {}
    for path, layer, array in found:
        seen.add(path)
        if path not in expected:
            unequal.add(path)
            continue
        if layer is not None and path not in layers:
            layers[path] = enumerate(expected.layers(path))
        index, same = (None, expected[path]) if layer is None else next(layers[path])
        if index != layer or array.dtype != same.dtype or _bits(array) != _bits(same):
            unequal.add(path)
        del array, same  # so that their memory takes the next
    unequal |= set(expected) - seen
    return Reimport(not unequal, len(seen), tuple(sorted(unequal)))


def _bits(array: np.ndarray) -> memoryview:
    return in_order(array).reshape(-1).view(np.uint8).data


def _differences(found: Any, expected: Any, where: str = "model") -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        return [line for key in found for line in _differences(found[key], expected[key], f"{where}.{key}")]
    return [] if found == expected else [f"{where}: found {found!r}, expected {expected!r}"]
