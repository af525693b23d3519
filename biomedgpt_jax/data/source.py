"""Prepared data as random access: samples and encoded images out of ArrayRecord files beside a manifest."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

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
    """One row: `images` are record numbers in its split's image files, in the order of the text."""

    id: str
    images: tuple[int, ...]
    turns: tuple[Turn, ...]
    meta: dict[str, Any] = field(default_factory=dict)


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

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._parse(index, self._samples.read([index])[0])

    @property
    def name(self) -> str:
        return f"{self.directory}:{self.split}"

    @property
    def num_images(self) -> int:
        return len(self._images)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Many samples in one read."""
        records = self._samples.read(indices)
        return [self._parse(int(i), record) for i, record in zip(indices, records, strict=True)]

    def image(self, number: int) -> bytes:
        """The encoded bytes (JPEG, PNG) of image record `number`."""
        return self._images.read([number])[0]

    def _files(self, kind: str) -> list[Path]:
        listed = [self.directory / file.path for file in self.manifest.splits[self.split].files]
        files = [file for file in listed if file.name.startswith(kind)]
        for file in files:
            if not file.is_file():
                raise DataError(f"{file} is named in the manifest of {self.directory} but is missing; prepare again")
        if not files and kind == "samples":
            raise DataError(f"the manifest of {self.directory} lists no samples file of split {self.split!r}")
        return files

    def _parse(self, index: int, record: bytes) -> Sample:
        try:
            row = json.loads(record)
            turns = tuple(Turn(t["question"], t["answer"]) for t in row["turns"])
            return Sample(str(row["id"]), tuple(row["images"]), turns, row.get("meta", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.name}: sample record {index} is not a sample ({error!r}); prepare again") from error


class Records:
    """The records of several ArrayRecord files, numbered through."""

    def __init__(self, files: Sequence[Path]):
        self._files = list(files)
        self._open()

    def __len__(self) -> int:
        return int(self._starts()[-1])

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The records in the order asked for."""
        starts = self._starts()
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= starts[-1]):
            where = self._files[0].parent if self._files else "a split without such files"
            raise DataError(f"{where}: records {wanted.min()}..{wanted.max()} asked for, {starts[-1]} exist")
        shard_of = np.searchsorted(starts, wanted, side="right") - 1
        out: list[bytes] = [b""] * len(wanted)
        for shard in np.unique(shard_of):
            places = np.flatnonzero(shard_of == shard)
            local = [int(wanted[p] - starts[shard]) for p in places]
            for place, record in zip(places, self._reader(int(shard)).read(local), strict=True):
                out[place] = record
        return out

    def _open(self) -> None:
        self._readers: list[Any] = [None] * len(self._files)
        self._counts: np.ndarray | None = None
        self._lock = threading.Lock()

    def _starts(self) -> np.ndarray:
        if self._counts is None:
            counts = [self._reader(i).num_records() for i in range(len(self._files))]
            self._counts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return self._counts

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if self._readers[shard] is None:
                path = str(self._files[shard])
                try:
                    self._readers[shard] = array_record_module.ArrayRecordReader(path, READER_OPTIONS)
                except Exception as error:
                    raise DataError(f"{path} is not a readable ArrayRecord file ({error}); prepare again") from error
            return self._readers[shard]

    def __getstate__(self) -> list[Path]:
        return self._files

    def __setstate__(self, files: list[Path]) -> None:
        self._files = files
        self._open()
