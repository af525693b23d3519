"""What a frozen tower makes of images, kept on disk: written once for each distinct image, read at random.

    <cache>/manifest.json            what the features are of (the key), their shape, and the shards; written last
    <cache>/shard-00000/             features.array_record and, when it is whole, done.json with its images
    <cache>/images/<hash>.npy        sha256 of every image of a prepared split, uint8 [n 32]

A record is the sha256 of the image's stored bytes, then its features row by row. Axis letters: n features of an
image, c channels.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.manifest import MANIFEST
from biomedgpt_jax.data.source import PreparedSplit, Records
from biomedgpt_jax.data.writer import DONE, locked, write_json

FORMAT = 1
FEATURES = "features.array_record"
HASH_BYTES = 32
SHARD_SECONDS = 120.0  # of work that an interruption may cost
SHARD_BYTES = 4 << 30  # of a file; all files of a cache are open while it is read
DTYPES = {
    name: np.dtype(kind)
    for name, kind in (("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16), ("int32", np.int32))
}

Key = Mapping[str, Any]  # JSON values by name; everything that decides a feature
Picture = tuple[PreparedSplit, int]  # a split and the number of an image record in it
Encode = Callable[[Sequence[Picture]], Iterator[np.ndarray]]  # features [n c] of each, in order
Progress = Callable[[str, int, int], None]  # (what, done, in all)


@dataclass(frozen=True)
class FeatureShape:
    """Of one image: [tokens channels] in `dtype`, a name in DTYPES."""

    tokens: int
    channels: int
    dtype: str

    @property
    def numpy_dtype(self) -> np.dtype:
        return DTYPES[self.dtype]


class FeatureReader:
    """Features of the images of some prepared splits; takes the place of an ImageReader.

    Files are opened at first use and again after pickling; nothing is kept in memory. Safe for threads.
    """

    def __init__(self, folder: Path, shape: FeatureShape, records: Records, numbers: Mapping[str, np.ndarray]):
        self.folder = folder
        self.feature_shape = shape
        self._records = records
        self._numbers = numbers  # split name -> record of each of its images, int64 [images]

    def read(self, split: PreparedSplit, number: int) -> np.ndarray:
        """The features [n c] of image record `number`; DataError for a damaged record, saying where."""
        where = f"{split.name}, image record {number}"
        try:
            record = self._records.read([int(self._numbers[split.name][number])])[0]
        except DataError as error:
            raise DataError(f"{where}: {error}. Delete that shard and run `biomedgpt prepare --features`") from error
        shape = self.feature_shape
        expected = HASH_BYTES + shape.tokens * shape.channels * shape.numpy_dtype.itemsize
        if len(record) != expected:
            raise DataError(
                f"{where}: expected a record of {expected} bytes in {self.folder}, found {len(record)}; "
                "delete the cache and make it again by `biomedgpt prepare --features`"
            )
        return np.frombuffer(record, shape.numpy_dtype, offset=HASH_BYTES).reshape(shape.tokens, shape.channels)


class FeatureCache:
    """A finished cache. DataError where the folder holds none."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        self.key: Key = manifest["key"]
        self.shape = FeatureShape(**manifest["shape"])
        self._shards = [_read_shard(self.folder / name) for name in manifest["shards"]]

    def check(self, key: Key) -> None:
        """Raises DataError where these are features of something else, naming each part of the key that differs."""
        _check_key(self.folder, expected=key, found=self.key)

    def reader(self, splits: Sequence[PreparedSplit]) -> FeatureReader:
        """For all images of `splits`; DataError naming a split with images that are not in the cache."""
        images = [digest for shard in self._shards for digest in shard.images]
        place = {digest: number for number, digest in enumerate(images)}
        numbers = {}
        for split in splits:
            found = [place.get(digest.tobytes().hex(), -1) for digest in _image_hashes(self.folder, split)]
            missing = [number for number, record in enumerate(found) if record < 0]
            if missing:
                raise DataError(
                    f"{self.folder} lacks the features of {len(missing)} of {len(found)} images of {split.name}, "
                    f"first image record {missing[0]}; add them by `biomedgpt prepare --features` with this data"
                )
            numbers[split.name] = np.array(found, np.int64)
        records = Records([(shard.folder / FEATURES, len(shard.images)) for shard in self._shards])
        return FeatureReader(self.folder, self.shape, records, numbers)


@dataclass(frozen=True)
class Written:
    """What a call of `write_features` did: images in the cache, and how many of them are new."""

    images: int
    new: int


def write_features(
    folder: str | Path,
    key: Key,
    shape: FeatureShape,
    splits: Sequence[PreparedSplit],
    encode: Encode,
    progress: Progress,
    *,
    made_by: Mapping[str, str],
    shard_seconds: float = SHARD_SECONDS,
) -> Written:
    """Adds what a cache lacks of all images of `splits`; what an earlier call finished stays.

    Args:
        encode: called once, with the pictures whose features are missing.
        made_by: facts for the reader of the manifest, such as the device.

    Raises:
        DataError: the folder holds features of another key, another call is writing, an unreadable image.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        shards = _finished_shards(folder, key)
        stored = {digest for shard in shards for digest in shard.images}
        wanted: dict[str, Picture] = {}
        for split in splits:
            for number, digest in enumerate(_image_hashes(folder, split, progress, keep=True)):
                wanted.setdefault(digest.tobytes().hex(), (split, number))
        left = [digest for digest in wanted if digest not in stored]
        stream = zip(left, encode([wanted[digest] for digest in left]), strict=True) if left else iter(())
        done = 0
        while done < len(left):

            def written(count: int, before: int = done) -> None:
                progress("features", before + count, len(left))

            # Numbered behind the last, whole or not: a shard that was deleted leaves a gap.
            target = folder / f"shard-{_next_number(folder):05d}"
            shards.append(_write_shard(target, key, shape, stream, written, shard_seconds))
            done += len(shards[-1].images)
        content = {
            "format": FORMAT,
            "key": dict(key),
            "shape": asdict(shape),
            "images": sum(len(shard.images) for shard in shards),
            "shards": [shard.folder.name for shard in shards],
            "made_by": dict(made_by),
        }
        write_json(folder / MANIFEST, content)
    return Written(content["images"], len(left))


@dataclass(frozen=True)
class _Shard:
    folder: Path
    key: Key
    images: tuple[str, ...]  # sha256 in the order of the records


def _write_shard(
    target: Path,
    key: Key,
    shape: FeatureShape,
    stream: Iterator[tuple[str, np.ndarray]],
    progress: Callable[[int], None],
    shard_seconds: float,
) -> _Shard:
    """Writes (sha256, features) from the stream, until it ends or time or size are used up."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    # Floats hardly shrink; stored plainly they are read without work.
    writer = ArrayRecordWriter(str(target / FEATURES), "group_size:1,uncompressed")
    begun, size, images = time.monotonic(), 0, []
    for digest, features in stream:
        if features.shape != (shape.tokens, shape.channels) or features.dtype != shape.numpy_dtype:
            raise DataError(f"expected features of {shape}, found {features.dtype} {features.shape}")
        writer.write(bytes.fromhex(digest) + features.tobytes())
        images.append(digest)
        size += features.nbytes
        progress(len(images))
        if time.monotonic() - begun >= shard_seconds or size >= SHARD_BYTES:
            break
    writer.close()
    write_json(target / DONE, {"key": dict(key), "images": images})
    return _Shard(target, key, tuple(images))


def _finished_shards(folder: Path, key: Key) -> list[_Shard]:
    """Clears what an interrupted call left."""
    shards = []
    for path in sorted(folder.glob("shard-*")):
        if not (path / DONE).exists():
            shutil.rmtree(path)
            continue
        shard = _read_shard(path)
        _check_key(folder, expected=key, found=shard.key)
        shards.append(shard)
    return shards


def _read_shard(folder: Path) -> _Shard:
    try:
        found = json.loads((folder / DONE).read_text())
        return _Shard(folder, found["key"], tuple(found["images"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is damaged or missing ({error}); delete it and run `biomedgpt prepare --features` again"
        ) from error


def _next_number(folder: Path) -> int:
    return max((int(path.name.removeprefix("shard-")) for path in folder.glob("shard-*")), default=-1) + 1


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        there = "it is unfinished" if any(folder.glob("shard-*")) else "there is no feature cache"
        raise DataError(f"{folder}: {there} (no {MANIFEST}); run `biomedgpt prepare --features --out={folder}`")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is not readable JSON ({error}); delete the folder and make it again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or "key" not in found:
        raise DataError(f"{path} is no manifest of a feature cache of format {FORMAT}; name the folder of a cache")
    return found


def _check_key(folder: Path, *, expected: Key, found: Key) -> None:
    other = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if other:
        shown = "; ".join(f"{name}: expected {expected.get(name)!r}, found {found.get(name)!r}" for name in other[:6])
        raise DataError(
            f"{folder} holds features of something else ({len(other)} differences). {shown}. Use the settings that "
            "they were made with, name another folder, or make them anew by `biomedgpt prepare --features`"
        )


def _image_hashes(
    folder: Path, split: PreparedSplit, progress: Progress | None = None, keep: bool = False
) -> np.ndarray:
    """sha256 of the bytes of each image of a split, uint8 [n 32]; read from the cache where it has them."""
    files = [file.sha256 for file in split.manifest.splits[split.split].files]
    kept = folder / "images" / f"{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:32]}.npy"
    if kept.exists():
        return np.load(kept)
    hashes = np.zeros((split.num_images, HASH_BYTES), np.uint8)
    for number in range(split.num_images):
        hashes[number] = np.frombuffer(hashlib.sha256(split.image(number)).digest(), np.uint8)
        if progress:
            progress(f"read {split.name}", number + 1, split.num_images)
    if keep:
        kept.parent.mkdir(exist_ok=True)
        draft = kept.with_suffix(".tmp.npy")
        np.save(draft, hashes)
        draft.replace(kept)
    return hashes
