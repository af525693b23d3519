"""Prepared data as random access: samples and encoded images out of ArrayRecord files beside a manifest."""

import copy
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.manifest import read_manifest

# Random access: no read-ahead and no threads of the reader's own.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


@dataclass(frozen=True)
class Turn:
    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """One row: `images` are record numbers in its split's image files, in the order of the text. `file` and `row` (from
    1) say where it was read; "" where it was not read from a file.
    """

    id: str
    images: tuple[int, ...]
    turns: tuple[Turn, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    row: int = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.id} ({self.file} row {self.row})" if self.file else self.id


class PreparedSplit:
    """One split of a folder that `biomedgpt prepare` wrote: `len(split)`, `split[i]`, `split.image(n)`.

    Files are opened at first use and again after pickling, so a split may travel to worker processes; reading
    is safe from several threads. DataError for a folder, split or record that is missing or unreadable.
    """

    def __init__(self, directory: str | Path, split: str):
        self.directory = Path(directory)
        self.split = split
        self.manifest = read_manifest(self.directory)
        if split not in self.manifest.splits:
            has = ", ".join(sorted(self.manifest.splits))
            raise DataError(f"{self.directory} has no split {split!r}; it has {has}")
        self._samples = Records(self._files("samples"))
        self._images = Records(self._files("images"))
        self._chosen: tuple[int, ...] | None = None  # the records that are its samples; None: all

    def __len__(self) -> int:
        return len(self._samples) if self._chosen is None else len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        return self.samples([index])[0]

    def spread(self, count: int) -> "PreparedSplit":
        """A split of `count` of its samples, evenly spread, or of all where it has no more; of the same images."""
        if count >= len(self):
            return self
        part = copy.copy(self)
        records = self._chosen or range(len(self))
        part._chosen = tuple(records[n * len(self) // count] for n in range(count))
        return part

    @property
    def name(self) -> str:
        return f"{self.directory}:{self.split}"

    @property
    def num_images(self) -> int:
        return len(self._images)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Many samples in one read."""
        numbers = [int(i) if self._chosen is None else self._chosen[int(i)] for i in indices]
        return [self._parse(n, record) for n, record in zip(numbers, self._samples.read(numbers), strict=True)]

    def image(self, number: int) -> bytes:
        """The encoded bytes (JPEG, PNG) of image record `number`."""
        return self._images.read([number])[0]

    def _files(self, kind: str) -> list[tuple[Path, int]]:
        listed = [(self.directory / file.path, file.records) for file in self.manifest.splits[self.split].files]
        files = [(path, records) for path, records in listed if path.name.startswith(kind)]
        for path, _ in files:
            if not path.is_file():
                raise DataError(f"{path} is named in the manifest of {self.directory} but is missing; prepare again")
        if not files and kind == "samples":
            raise DataError(f"the manifest of {self.directory} lists no samples file of split {self.split!r}")
        return files

    def _parse(self, index: int, record: bytes) -> Sample:
        try:
            row = json.loads(record)
            turns = tuple(Turn(t["question"], t["answer"]) for t in row["turns"])
            origin = str(row.get("file", "")), int(row.get("row", 0))
            return Sample(str(row["id"]), tuple(row["images"]), turns, row.get("meta", {}), *origin)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.name}: sample record {index} is not a sample ({error!r}); prepare again") from error


class Records:
    """The records of several ArrayRecord files, numbered through. `files` are (path, number of records)."""

    def __init__(self, files: Sequence[tuple[Path, int]]):
        self._files = tuple(files)
        self._starts = np.concatenate([[0], np.cumsum([records for _, records in files])]).astype(np.int64)
        self._readers: list[Any] = [None] * len(self._files)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """The records in the order asked for."""
        wanted = np.asarray(numbers, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            where = self._files[0][0].parent if self._files else "a split without images"
            raise DataError(f"{where}: records {wanted.min()}..{wanted.max()} asked for, {len(self)} exist")
        file_of = np.searchsorted(self._starts, wanted, side="right") - 1
        out: list[bytes] = [b""] * len(wanted)
        for file in np.unique(file_of).tolist():
            places = np.flatnonzero(file_of == file).tolist()
            local = [int(wanted[place] - self._starts[file]) for place in places]
            for place, record in zip(places, self._read(file, local), strict=True):
                out[place] = record
        return out

    def _read(self, file: int, local: list[int]) -> list[bytes]:
        path = self._files[file][0]
        try:
            return self._reader(file).read(local)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{path} is damaged ({error}); prepare again") from error

    def _reader(self, file: int) -> Any:
        with self._lock:
            if self._readers[file] is None:
                path, records = self._files[file]
                reader = ArrayRecordReader(str(path), READER_OPTIONS)
                if reader.num_records() != records:
                    raise DataError(
                        f"{path} is damaged: the manifest says {records} records, {reader.num_records()} can be read; "
                        "prepare again"
                    )
                self._readers[file] = reader
            return self._readers[file]

    def __reduce__(self) -> tuple:
        return Records, (self._files,)
