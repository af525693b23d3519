"""Safetensors folders, read lazily and written in a stream: never more than one tensor in memory.

The format (little-endian header length, JSON header, raw bytes) is read here directly, because the numpy
side of the safetensors library has no bfloat16 and keeps whole files mapped.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from biomedgpt_jax.convert.source import SourceFile, Tensors
from biomedgpt_jax.core.errors import RunError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# A writer that streams does not know the header before the data: this much is kept free in front, and
# filled with spaces, as the format allows. About 1,500 tensors fit; a shard ends when it is full.
HEADER_BYTES = 256 * 1024
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class _Entry:
    source: SourceFile
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file

    @property
    def file(self) -> Path:
        return self.source.path


class SafetensorsFolder(Tensors):
    """Key -> array over one file, `model.safetensors` if not named, or the shards of `model.safetensors.index.json`.

    Only headers are read at first; each lookup reads one tensor from the disk, in its stored dtype.

    Raises:
        RunError: no weights in the folder, an absent or truncated shard, an index and shards that
            disagree, a key that occurs twice; names the file and the key.
    """

    def __init__(self, folder: str | os.PathLike, single: str = SINGLE):
        self.folder = Path(folder)
        index = self.folder / INDEX
        weight_map = _weight_map(index) if _is_sharded(self.folder, single) else None
        names = sorted(set(weight_map.values())) if weight_map else [single]
        self.files = tuple(SourceFile(self.folder / name) for name in names)
        self._entries: dict[str, _Entry] = {}
        for file in self.files:
            for key, entry in sorted(_read_header(file).items(), key=lambda item: item[1].start):
                if key in self._entries:
                    raise RunError(
                        f"{file.path}: tensor {key} is also in {self._entries[key].file.name}, expected in one "
                        "file only. Remove the stale shard or download the folder again."
                    )
                self._entries[key] = entry
        if weight_map is not None:
            _check_index(index, weight_map, self._entries)

    def __getitem__(self, key: str) -> np.ndarray:
        entry = self._entries[key]
        raw = entry.source.read(entry.start, prod(entry.shape) * entry.dtype.itemsize)
        return raw.view(entry.dtype).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def shape(self, key: str) -> tuple[int, ...]:
        return self._entries[key].shape


def write_safetensors(
    folder: str | os.PathLike, tensors: Iterable[tuple[str, np.ndarray]], max_shard_bytes: int = 4_000_000_000
) -> list[Path]:
    """Streams tensors into `model.safetensors`, or into shards with an index when they do not fit one.

    Each tensor is written as it comes and let go. Files appear under their names only when all are
    complete; an interrupted write leaves no file that a reader would take.

    Raises:
        RunError: a key comes twice, a dtype that the format lacks, or the disk refuses.
    """
    folder = Path(folder)
    shards: list[_Shard] = []
    seen: set[str] = set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key, array in tensors:
            if key in seen:
                raise RunError(f"{folder}: tensor {key} would be written twice; the rule table names it twice.")
            seen.add(key)
            if not shards or not shards[-1].fits(key, array, max_shard_bytes):
                if shards:
                    shards[-1].close()
                shards.append(_Shard(folder / f".writing-{len(shards):05d}.safetensors"))
            shards[-1].write(key, array)
        if not shards:
            raise RunError(f"{folder}: there is no tensor to write.")
        shards[-1].close()
        return _publish(folder, shards)
    except OSError as error:
        raise RunError(
            f"{folder}: weights could not be written ({error}). Free space or choose another folder."
        ) from error
    finally:
        for shard in shards:
            shard.discard()


class _Shard:
    """One file being written: data first, the header into the space kept for it."""

    def __init__(self, path: Path):
        self.path = path
        self.header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self.size = 0
        self._header_size = 64
        self._file: BinaryIO = path.open("wb")
        self._file.seek(8 + HEADER_BYTES)

    def fits(self, key: str, array: np.ndarray, max_shard_bytes: int) -> bool:
        full = self._header_size + _entry_bytes(key) > HEADER_BYTES
        return not full and (self.size == 0 or self.size + array.nbytes <= max_shard_bytes)

    def write(self, key: str, array: np.ndarray) -> None:
        name = NAMES.get(array.dtype)
        if name is None:
            raise RunError(
                f"{self.path.parent}: tensor {key} has dtype {array.dtype}, expected one of {sorted(DTYPES)}."
            )
        end = self.size + array.nbytes
        self.header[key] = {"dtype": name, "shape": list(array.shape), "data_offsets": [self.size, end]}
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self.size = end
        self._header_size += _entry_bytes(key)

    def close(self) -> None:
        header = json.dumps(self.header, separators=(",", ":")).encode()
        self._file.seek(0)
        self._file.write(HEADER_BYTES.to_bytes(8, "little") + header.ljust(HEADER_BYTES))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def _publish(folder: Path, shards: list[_Shard]) -> list[Path]:
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    for shard, name in zip(shards, names, strict=True):
        shard.path.rename(folder / name)
    stale = {*folder.glob("model*.safetensors"), folder / INDEX} - {folder / name for name in names}
    for old in stale:
        old.unlink(missing_ok=True)
    if len(shards) > 1:
        where = {key: name for shard, name in zip(shards, names, strict=True) for key in shard.header}
        del where["__metadata__"]
        total = sum(shard.size for shard in shards)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        temporary = folder / ".writing-index.json"
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        temporary.rename(folder / INDEX)
    return [folder / name for name in names]


def _entry_bytes(key: str) -> int:
    return 2 * len(key.encode()) + 130


def _is_sharded(folder: Path, single: str) -> bool:
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder, expected one with {single} or {INDEX}.")
    if (folder / single).is_file():
        return False
    if (folder / INDEX).is_file():
        return True
    found = sorted(path.name for path in folder.iterdir())[:10]
    raise RunError(
        f"{folder}: expected {SINGLE} or {INDEX}, found {', '.join(found) or 'nothing'}. "
        "Weights in other formats (pytorch_model.bin) must first be saved as safetensors."
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Key -> shard name; every shard is there."""
    try:
        weight_map = _parse_json(index.read_bytes(), index)["weight_map"]
        if not weight_map or not all(isinstance(value, str) for value in weight_map.values()):
            raise TypeError("weight_map must map tensor names to file names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{index}: not a safetensors index ({error}). Download it again.") from error
    for key, name in weight_map.items():
        if Path(name).name != name:
            raise RunError(f"{index}: file name {name!r} leaves the folder, expected a plain file name.")
        if not (index.parent / name).is_file():
            raise RunError(
                f"{index}: names the shard {name} (for {key}), which is not in {index.parent}. Download it again."
            )
    return weight_map


def _check_index(index: Path, weight_map: Mapping[str, str], entries: Mapping[str, _Entry]) -> None:
    for key, name in weight_map.items():
        if key not in entries or entries[key].file.name != name:
            place = entries[key].file.name if key in entries else "no shard"
            raise RunError(
                f"{index}: says that tensor {key} is in {name}, found in {place}. Download the folder again."
            )
    extra = sorted(set(entries) - set(weight_map))
    if extra:
        raise RunError(
            f"{entries[extra[0]].file}: tensor {extra[0]} ({len(extra)} in all) is not in {index.name}; "
            "index and shards are of different saves. Download the folder again."
        )


def _parse_json(raw: bytes, file: Path) -> Any:
    """JSON in which a key that occurs twice is an error, not the last one kept."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise RunError(f"{file}: key {twice} occurs twice, expected once. Download the file again.")
        return dict(pairs)

    return json.loads(raw, object_pairs_hook=unique)


def _read_header(source: SourceFile) -> dict[str, _Entry]:
    file = source.path
    total = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if total < 8 or length > min(total - 8, MAX_HEADER_BYTES):
            raise RunError(
                f"{file}: not a safetensors file, or cut off in its header ({total} bytes). Download it again."
            )
        raw = stream.read(length)
    try:
        header = _parse_json(raw, file)
        header.pop("__metadata__", None)
        entries = {key: _entry(source, key, value, 8 + length, total) for key, value in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: the safetensors header is damaged ({error}). Download it again.") from error
    return entries


def _entry(source: SourceFile, key: str, value: Mapping[str, Any], data: int, total: int) -> _Entry:
    file = source.path
    if value["dtype"] not in DTYPES:
        raise RunError(
            f"{file}: tensor {key} has dtype {value['dtype']}, expected one of {sorted(DTYPES)}. Save a copy in one."
        )
    dtype, shape = DTYPES[value["dtype"]], tuple(int(n) for n in value["shape"])
    start, end = value["data_offsets"]
    if not 0 <= start <= end or any(size < 0 for size in shape):
        raise ValueError(f"{key} has the shape {shape} and lies at {start} to {end}")
    if end - start != prod(shape) * dtype.itemsize:
        raise RunError(
            f"{file}: tensor {key} has {end - start} bytes, expected {prod(shape) * dtype.itemsize} for {shape}."
        )
    if data + end > total:
        raise RunError(
            f"{file}: cut off: tensor {key} ends at byte {data + end}, the file has {total}. Download it again."
        )
    return _Entry(source, dtype, shape, data + start)
