"""PyTorch weight files (`checkpoint.pth`) read without PyTorch, lazily and without running what they contain.

Such a file is a zip archive: `data.pkl` describes the tensors, `data/N` holds the bytes of storage N. The
pickle is read by an unpickler that knows tensors and ordered dicts and refuses every other name.
"""

import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from biomedgpt_jax.convert.source import SourceFile, Tensors
from biomedgpt_jax.core.errors import RunError

STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclass(frozen=True)
class _Storage:
    name: str
    dtype: np.dtype


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements


class TorchFile(Tensors):
    """Key -> array over a state dict saved by `torch.save`; each lookup reads one tensor from the disk.

    Raises:
        RunError: not such a file, cut off, or with anything in it but a flat dict of tensors.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._archive = _open(self.path)
        pickles = [name for name in self._archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise RunError(f"{self.path}: expected one data.pkl in the archive, found {len(pickles)}.")
        self._root = pickles[0].removesuffix("data.pkl")
        self.files = (SourceFile(self.path),)
        tensors = self._read(pickles[0])
        self._starts = {key: self._start(key, tensor) for key, tensor in tensors.items()}
        self._tensors = {key: tensors[key] for key in sorted(tensors, key=self._starts.__getitem__)}

    def __getitem__(self, key: str) -> np.ndarray:
        tensor = self._tensors[key]
        item = tensor.storage.dtype.itemsize
        reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        size = 0 if 0 in tensor.shape else (1 + reach) * item
        member = self._archive.getinfo(self._member(tensor))
        raw = self.files[0].read(self._starts[key], size)
        if tensor.offset * item + size > member.file_size or raw.size != size:
            raise RunError(f"{self.path}: tensor {key} ends behind its storage. Copy the file again.")
        if raw.size == member.file_size and zlib.crc32(raw.data) != member.CRC:
            raise RunError(f"{self.path}: tensor {key} is damaged (its checksum differs). Copy the file again.")
        strides = tuple(stride * item for stride in tensor.strides)
        flat = raw.view(tensor.storage.dtype)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, tensor.shape, strides)).reshape(tensor.shape)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._tensors[key].shape

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def _member(self, tensor: _Tensor) -> str:
        return f"{self._root}data/{tensor.storage.name}"

    def _start(self, key: str, tensor: _Tensor) -> int:
        """Bytes from the start of the file; storages are not compressed, so that parts can be read."""
        try:
            member = self._archive.getinfo(self._member(tensor))
        except KeyError as error:
            raise RunError(f"{self.path}: tensor {key} cannot be read ({error}). Copy the file again.") from error
        if member.compress_type != zipfile.ZIP_STORED:
            raise RunError(f"{self.path}: tensor {key} is compressed. Save it again with torch.save.")
        header = self.files[0].read(member.header_offset, 30).tobytes()
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return member.header_offset + 30 + name + extra + tensor.offset * tensor.storage.dtype.itemsize

    def _read(self, name: str) -> dict[str, _Tensor]:
        try:
            with self._archive.open(name) as stream:
                content = _Unpickler(stream).load()
        except RunError as error:
            raise RunError(f"{self.path}: {error}") from error
        # A damaged pickle raises nearly anything; all of it means the same here.
        except Exception as error:
            raise RunError(f"{self.path}: data.pkl is damaged ({error}). Copy the file again.") from error
        if not isinstance(content, dict) or not content:
            raise RunError(f"{self.path}: expected a dict of tensors, found {type(content).__name__}.")
        for key, value in content.items():
            if not isinstance(key, str) or not isinstance(value, _Tensor):
                raise RunError(
                    f"{self.path}: entry {key!r} is no tensor ({type(value).__name__}), expected a flat state "
                    f"dict. Save model.state_dict() alone; the file has {', '.join(map(str, list(content)[:5]))}."
                )
            if min((*value.shape, *value.strides, value.offset, 0)) < 0 or prod(value.shape) > 2**40:
                raise RunError(f"{self.path}: tensor {key} has the impossible shape {value.shape}.")
        return dict(content)


class _Unpickler(pickle.Unpickler):
    """Knows tensors; any other name in the file is refused before it can do anything."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        raise RunError(
            f"the file asks for {module}.{name}, which is not part of a state dict. "
            "Refused: such a file can run code. Save model.state_dict() alone."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, name, _device, _count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise RunError(f"unknown storage {kind}")
        return _Storage(str(name), dtype)


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def _open(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise RunError(f"{path} is not a file, expected a PyTorch state dict.")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise RunError(
            f"{path}: not a PyTorch weight file of version 1.6 or later ({error}). It is cut off, or older: "
            "then load it with torch.load(..., weights_only=True) and torch.save it again."
        ) from error
    orders = [name for name in archive.namelist() if name.endswith("/byteorder")]
    if orders and archive.read(orders[0]) != b"little":
        raise RunError(f"{path}: written on a big-endian machine, expected little-endian.")
    return archive
