"""Rows to ArrayRecord shards: each shard is whole or absent, and tells what the next one needs to continue.

A shard folder `<split>/shard-00007/` holds samples.array_record, images.array_record and, written last,
done.json.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.rows import BadRow, Row

SAMPLES, IMAGES, DONE = "samples.array_record", "images.array_record", "done.json"


@dataclass(frozen=True)
class Shard:
    """What done.json holds. `rows`: rows read, good and bad; `image_hashes`: of the images first stored here;
    `identified`: how many of these came from files whose headers identify, and `identifying` by field.
    """

    rows: int
    samples: int
    image_hashes: tuple[str, ...]
    skipped: tuple[BadRow, ...]
    sha256: dict[str, str]
    identified: int
    identifying: dict[str, int]


@dataclass(frozen=True)
class NewImage:
    """Bytes to store, and the fields of its raw file's header that identify (`dicom.identifying`)."""

    data: bytes
    identifying: tuple[str, ...]


class ShardWriter:
    """Writes one shard. `numbers` (sha256 -> record number in the split) is shared between the shards of a
    split.
    """

    def __init__(self, folder: Path, numbers: dict[str, int]):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.numbers = numbers
        self.rows = self.samples = self.identified = 0
        self.identifying: Counter[str] = Counter()
        self.new_hashes: list[str] = []
        self.skipped: list[BadRow] = []
        self._samples = ArrayRecordWriter(str(folder / SAMPLES), "group_size:1")
        # JPEG and PNG do not shrink; storing them plainly saves the decompression at every read.
        self._images = ArrayRecordWriter(str(folder / IMAGES), "group_size:1,uncompressed")

    def skip(self, bad: BadRow) -> None:
        self.rows += 1
        self.skipped.append(bad)

    def add(self, row: Row, images: list[tuple[str, NewImage | None]]) -> None:
        """`images`: (sha256, image) per image of the row; it may be None for one already stored."""
        records = []
        for sha256, image in images:
            if sha256 not in self.numbers:
                assert image is not None
                self.numbers[sha256] = len(self.numbers)
                self.new_hashes.append(sha256)
                self._images.write(image.data)
                self.identified += bool(image.identifying)
                self.identifying.update(image.identifying)
            records.append(self.numbers[sha256])
        self._samples.write(_sample_json(row, records, [sha256 for sha256, _ in images]))
        self.rows += 1
        self.samples += 1

    def close(self) -> Shard:
        """Finishes the files, then marks the shard done."""
        self._samples.close()
        self._images.close()
        sums = {name: file_sha256(self.folder / name) for name in (SAMPLES, IMAGES)}
        hashes, skipped = tuple(self.new_hashes), tuple(self.skipped)
        told = self.identified, dict(self.identifying)
        shard = Shard(self.rows, self.samples, hashes, skipped, sums, *told)
        write_json(self.folder / DONE, asdict(shard))
        return shard


def read_shard(folder: Path) -> Shard | None:
    """The finished shard in this folder, or None when it is absent or was interrupted."""
    try:
        found = json.loads((folder / DONE).read_text())
    except FileNotFoundError:
        return None
    skipped = tuple(BadRow(**bad) for bad in found.pop("skipped"))
    return Shard(skipped=skipped, image_hashes=tuple(found.pop("image_hashes")), **found)


def write_json(path: Path, content: Any) -> None:
    """Written beside, forced to the disk, then renamed: the file is whole or absent."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample_json(row: Row, records: list[int], hashes: list[str]) -> bytes:
    meta = dict(row.meta)
    if hashes:
        meta.setdefault("image_name", row.images[0].name)
        meta["image_sha256"] = hashes[0]
    turns = [{"question": question, "answer": answer} for question, answer in row.turns]
    sample = {"id": row.id, "images": records, "turns": turns, "meta": meta, "file": row.file, "row": row.row}
    return json.dumps(sample, ensure_ascii=False).encode()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer of a folder at a time, else DataError; the system frees the lock of a killed one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as reason:
            raise DataError(f"another run is working in {folder}; wait for it or stop it") from reason
        yield
    finally:
        os.close(handle)
