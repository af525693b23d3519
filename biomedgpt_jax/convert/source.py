"""Where tensors come from: files that are read once, and names over them that read nothing until asked."""

import hashlib
import sys
from abc import abstractmethod
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

import numpy as np

HASH_BYTES = 2**24


class SourceFile:
    """A file read in parts. From `begin_hash` on, parts that come in order are hashed as they are read."""

    def __init__(self, path: Path):
        self.path = path
        self._hash = hashlib.sha256()
        self._hashes = False
        self._hashed = 0  # bytes from the start
        self._buffer = np.empty(0, np.uint8)

    def read(self, start: int, size: int) -> np.ndarray:
        """uint8 [size], fewer where the file ends. Memory is used again when nobody holds the last part."""
        # Beside this object's own, getrefcount counts its argument; fresh pages cost more than the reading.
        if self._buffer.nbytes < size or sys.getrefcount(self._buffer) > 2:
            self._buffer = np.empty(size, np.uint8)
        array = self._buffer[:size]
        with self.path.open("rb", buffering=0) as file:
            file.seek(start)
            array = array[: _fill(file, array.data)]
        if self._hashes and start >= self._hashed:
            self._hash_up_to(start)
            self._hash.update(array.data)
            self._hashed = start + array.size
        return array

    def begin_hash(self) -> None:
        self._hashes = True

    def sha256(self) -> str:
        """Of the whole file; reads what was not read in order since `begin_hash`."""
        self._hash_up_to(self.path.stat().st_size)
        return self._hash.hexdigest()

    def _hash_up_to(self, end: int) -> None:
        with self.path.open("rb") as file:
            file.seek(self._hashed)
            while self._hashed < end and (part := file.read(min(HASH_BYTES, end - self._hashed))):
                self._hash.update(part)
                self._hashed += len(part)


def _fill(file: FileIO, memory: memoryview) -> int:
    """Bytes read; one call may give fewer than there are."""
    done = 0
    while done < len(memory) and (more := file.readinto(memory[done:])):
        done += more
    return done


class Tensors(Mapping[str, np.ndarray]):
    """Key -> array, each lookup from the disk; keys come in the order in which they lie there."""

    files: tuple[SourceFile, ...]

    @abstractmethod
    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
