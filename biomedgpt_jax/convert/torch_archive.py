"""What `torch.save` wrote, read without PyTorch, lazily, and without running what the file asks for.

Both formats: a zip archive whose `data.pkl` describes the tensors and whose `data/N` holds the bytes of storage N, and
the format before PyTorch 1.6, pickles followed by the storages. The unpickler knows tensors, ordered dicts, and the
names that the caller adds; every other name in the file is refused before it can do anything.
"""

import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from biomedgpt_jax.convert.source import SourceFile
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
# The number with which files of the older format begin.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_OLD_START = pickle.dumps(_OLD_MAGIC, protocol=2)
_OLD_PROTOCOL = 1001

# Module and name in a pickle -> what stands for it here; None is refused.
Known = Callable[[str, str], Any | None]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor by the place of its elements in the file."""

    storage: str
    dtype: np.dtype
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements


@dataclass(frozen=True)
class _Span:
    """The bytes of a storage in the file."""

    start: int
    size: int
    crc: int | None  # None: the format has no checksums


class TorchArchive:
    """A file of `torch.save`: its `content`, in which tensors are `StoredTensor`, and their bytes when asked for.

    Args:
        known: names beside those of tensors that the file may hold.

    Raises:
        RunError: not such a file, cut off, or it asks for a name that is not known.
    """

    def __init__(self, path: Path, known: Known = lambda module, name: None):
        self.path, self.file = path, SourceFile(path)
        if not path.is_file():
            raise RunError(f"{path} is not a file, expected one written by torch.save.")
        with path.open("rb") as stream:
            old = stream.read(len(_OLD_START)) == _OLD_START
        self.content, self._span = (self._read_old if old else self._read_zip)(known)

    def start(self, key: str, tensor: StoredTensor) -> int:
        """Bytes from the start of the file to the tensor's first element."""
        return self._span_of(key, tensor).start + tensor.offset * tensor.dtype.itemsize

    def read(self, key: str, tensor: StoredTensor) -> np.ndarray:
        """The tensor, from the disk; `key` is its name in messages."""
        item, span = tensor.dtype.itemsize, self._span_of(key, tensor)
        reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        size = 0 if 0 in tensor.shape else (1 + reach) * item
        raw = self.file.read(span.start + tensor.offset * item, size)
        if tensor.offset * item + size > span.size or raw.size != size:
            raise RunError(f"{self.path}: tensor {key} ends behind its storage. Copy the file again.")
        if raw.size == span.size and span.crc is not None and zlib.crc32(raw.data) != span.crc:
            raise RunError(f"{self.path}: tensor {key} is damaged (its checksum differs). Copy the file again.")
        strides = tuple(stride * item for stride in tensor.strides)
        strided = np.lib.stride_tricks.as_strided(raw.view(tensor.dtype), tensor.shape, strides)
        return np.ascontiguousarray(strided).reshape(tensor.shape)

    def state_dict(self, content: Any, what: str) -> dict[str, StoredTensor]:
        """`content` as tensors by name, in the order in which they lie in the file; `what` names it in messages.

        Raises:
            RunError: it is something else than a flat dict of tensors.
        """
        if not isinstance(content, dict) or not content:
            raise RunError(f"{self.path}: expected {what} to be a dict of tensors, found {type(content).__name__}.")
        for key, value in content.items():
            if not isinstance(key, str) or not isinstance(value, StoredTensor):
                raise RunError(
                    f"{self.path}: entry {key!r} is no tensor ({type(value).__name__}), expected a flat state "
                    f"dict. Save model.state_dict() alone; the file has {', '.join(map(str, list(content)[:5]))}."
                )
            if min((*value.shape, *value.strides, value.offset, 0)) < 0 or prod(value.shape) > 2**40:
                raise RunError(f"{self.path}: tensor {key} has the impossible shape {value.shape}.")
        return dict(sorted(content.items(), key=lambda item: self.start(*item)))

    def _span_of(self, key: str, tensor: StoredTensor) -> _Span:
        try:
            return self._span(tensor.storage)
        except KeyError as error:
            raise RunError(f"{self.path}: tensor {key} cannot be read ({error}). Copy the file again.") from error

    def _read_zip(self, known: Known) -> tuple[Any, Callable[[str], _Span]]:
        archive = _open_zip(self.path)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise RunError(f"{self.path}: expected one data.pkl in the archive, found {len(pickles)}.")
        root = pickles[0].removesuffix("data.pkl")
        with archive.open(pickles[0]) as stream:
            content = self._unpickled(lambda: _Unpickler(stream, known).load(), "data.pkl")

        def span(storage: str) -> _Span:
            """Storages are not compressed, so that parts can be read."""
            member = archive.getinfo(f"{root}data/{storage}")
            if member.compress_type != zipfile.ZIP_STORED:
                raise RunError(f"{self.path}: storage {storage} is compressed. Save it again with torch.save.")
            header = self.file.read(member.header_offset, 30).tobytes()
            name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            return _Span(member.header_offset + 30 + name + extra, member.file_size, member.CRC)

        return content, span

    def _read_old(self, known: Known) -> tuple[Any, Callable[[str], _Span]]:
        """Magic number, protocol, facts about the machine, content, names of storages; then each length and bytes."""
        with self.path.open("rb") as stream:

            def load() -> tuple[Any, dict[str, _Span]]:
                parts = [_Unpickler(stream, known) for _ in range(5)]
                _, protocol, system = (part.load() for part in parts[:3])
                if protocol != _OLD_PROTOCOL or not system.get("little_endian"):
                    raise RunError(f"written by protocol {protocol} on {system}, expected {_OLD_PROTOCOL}.")
                content, names = parts[3].load(), parts[4].load()
                return content, _old_spans(stream, names, parts[3].dtypes)

            content, spans = self._unpickled(load, "the pickle")
        return content, spans.__getitem__

    def _unpickled(self, load: Callable[[], Any], what: str) -> Any:
        try:
            return load()
        except RunError as error:
            raise RunError(f"{self.path}: {error}") from error
        # A damaged pickle raises nearly anything; all of it means the same here.
        except Exception as error:
            raise RunError(f"{self.path}: {what} is damaged ({error}). Copy the file again.") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, known: Known):
        super().__init__(stream)
        self._known_names = known
        self.dtypes: dict[str, np.dtype] = {}  # of the storages that were named

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        found = _KNOWN.get((module, name)) or self._known_names(module, name)
        if found is None:
            raise RunError(
                f"the file asks for {module}.{name}, which is not part of a state dict. "
                "Refused: such a file can run code. Save model.state_dict() alone."
            )
        return found

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        kind, dtype, name, _device, _count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise RunError(f"unknown storage {pid!r:.200}")
        self.dtypes[str(name)] = dtype
        return str(name), dtype


def _tensor(storage: tuple[str, np.dtype], offset: int, shape: tuple, strides: tuple, *_: Any) -> StoredTensor:
    name, dtype = storage
    return StoredTensor(name, dtype, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(tensor: StoredTensor, *_: Any) -> StoredTensor:
    return tensor


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def _old_spans(stream: BinaryIO, names: list[str], dtypes: dict[str, np.dtype]) -> dict[str, _Span]:
    spans = {}
    for name in names:
        count = int.from_bytes(stream.read(8), "little")
        spans[name] = _Span(stream.tell(), count * dtypes[name].itemsize, None)
        stream.seek(spans[name].size, 1)
    return spans


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise RunError(
            f"{path}: not a PyTorch weight file ({error}). It is cut off, or something else; copy it again."
        ) from error
    orders = [name for name in archive.namelist() if name.endswith("/byteorder")]
    if orders and archive.read(orders[0]) != b"little":
        raise RunError(f"{path}: written on a big-endian machine, expected little-endian.")
    return archive
