"""A file as `torch.save` writes it, one tensor in memory at a time: a zip archive of storages, and their pickle."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert.torch_archive import STORAGES

_ROOT = "checkpoint"  # any name; all members lie below it
_VERSION = b"3\n"  # of the format
_KINDS = {dtype: kind for kind, dtype in STORAGES.items()}


def save_state(
    path: Path, torch: Any, content: Mapping[str, Any], name: str, tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes `content` and, as its entry `name`, a state dict; each tensor is let go before the next is asked for.

    Args:
        torch: the module; the pickle names some of it.
        content: plain data.
        tensors: of dtypes that PyTorch has.
    """
    state: dict[str, _Tensor] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in tensors:
            storage = _Storage(str(len(state)), _KINDS[array.dtype], array.size)
            state[key] = _Tensor(storage, array.shape)
            member = zipfile.ZipInfo(f"{_ROOT}/data/{storage.name}")
            member.file_size = array.nbytes  # so that large ones get the wide fields
            with archive.open(member, "w") as stream:
                stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            del array  # so that its memory takes the next
        pickled = io.BytesIO()
        _Pickler(pickled, torch).dump({**content, name: state})
        for part, data in (("data.pkl", pickled.getvalue()), ("byteorder", b"little"), ("version", _VERSION)):
            archive.writestr(zipfile.ZipInfo(f"{_ROOT}/{part}"), data)


@dataclass(frozen=True)
class _Storage:
    name: str
    kind: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    shape: tuple[int, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements, row by row."""
        return tuple(int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape)))


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, torch: Any):
        super().__init__(stream, protocol=2)
        self._torch = torch

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        return "storage", getattr(self._torch, value.kind), value.name, "cpu", value.count

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _Tensor):
            return NotImplemented
        facts = (value.storage, 0, value.shape, value.strides, False, OrderedDict())
        return self._torch._utils._rebuild_tensor_v2, facts
