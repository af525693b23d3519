"""Raw files to a prepared folder: parallel, resumable, atomic, and nothing lost silently.

The work happens in `<out>.partial`, shard by shard; the folder gets its name only when all is whole. A killed
run continues after its last finished shard when called again.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path

from biomedgpt_jax.data.dicom import identifying, is_dicom
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import storable
from biomedgpt_jax.data.manifest import (
    FORMAT,
    MANIFEST,
    DataFile,
    Manifest,
    SkippedRow,
    SplitInfo,
    read_manifest,
)
from biomedgpt_jax.data.rows import BadRow, ImageRef, Row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, RawSplit, Report
from biomedgpt_jax.data.writer import IMAGES, SAMPLES, NewImage, Shard, ShardWriter, locked, read_shard, write_json

# (split, rows done, rows of the split if known)
Progress = Callable[[str, int, int | None], None]
REQUEST = "request.json"
BAD_ROWS = ".bad_rows.jsonl"  # beside the folder that would have been written: all rows that stopped it
SHOWN = 5  # bad rows in the log
WINDOW = 256  # rows whose images are in memory at once
log = logging.getLogger(__name__)


def prepare_dataset(
    spec: DatasetSpec,
    out_dir: Path | str,
    *,
    source_dir: Path | str | None = None,
    download_dir: Path | str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    report: Report | None = None,
    max_bad_share: float = 0.0,
    allow_other_sizes: bool = False,
    shard_rows: int = 10_000,
    command: str = "",
) -> Manifest:
    """Writes the prepared folder `out_dir` and returns its manifest; a folder made from the same data is kept
    as it is.

    `source_dir` holds the raw files; without it they are downloaded into `download_dir` (default
    `<out_dir>.raw`), with `report` called on the way. `workers` processes read and decode the images;
    `progress` is called every few hundred rows. Rows that cannot be used are skipped and listed in the
    manifest. Raises DataError when their share of a split is above `max_bad_share` (they are then listed in
    `<out_dir>.bad_rows.jsonl`), when a split has another number of
    rows than was published and `allow_other_sizes` is not set (the finished work stays, for a call that allows
    more), or on unusable raw files.
    """
    _refuse_address(spec, out_dir)
    out = Path(out_dir)
    raw = _open_raw(spec, out, source_dir, download_dir, report or _silent)
    fingerprint = _fingerprint(spec, raw, shard_rows)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, expected a folder or a new name")
    if out.is_dir() and any(out.iterdir()):
        return _existing(out, fingerprint)
    partial = _partial(out)
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial):
        if not (partial / MANIFEST).exists():
            _clear_other_work(partial, fingerprint)
            with _pool(workers) as pool:
                done = {
                    name: _write_split(partial / name, name, split, pool, progress or _silent, shard_rows)
                    for name, split in _with_totals(spec, raw).items()
                }
            _check_bad_rows(spec, done, max_bad_share, out)
            _check_sizes(spec, done, allow_other_sizes, partial)
            _manifest(spec, raw, done, partial, fingerprint, command).write(partial)
        return _publish(partial, out)


def _open_raw(
    spec: DatasetSpec, out: Path, source: Path | str | None, download: Path | str | None, report: Report
) -> Raw:
    if source is not None:
        folder = Path(source)
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise DataError(f"source folder {folder} {found}; expected the raw files of {spec.name} there")
    elif spec.steps:
        raise DataError(f"{spec.name}: no folder of its files was given.\n{instructions(spec)}")
    else:
        folder = Path(download) if download is not None else out.with_name(out.name + ".raw")
        if spec.download is not None:
            folder.mkdir(parents=True, exist_ok=True)
            spec.download(folder, report)
    try:
        raw = spec.read(folder)
    except DataError as reason:
        if not spec.steps:
            raise
        raise DataError(f"{reason}\n{instructions(spec)}") from reason
    if not raw.splits:
        raise DataError(f"{spec.name}: no split to prepare; name a file for train, validation or test")
    return raw


def instructions(
    spec: DatasetSpec, last: str = "Call again with the folder as the source: --config.source=FOLDER"
) -> str:
    """How a person gets files that no program may or can fetch, step by step."""
    steps = [*spec.steps, last]
    lines = [f"How to get {spec.title} ({spec.access.value}; {spec.licence}):"]
    return "\n".join(lines + [f"  {number}. {step}" for number, step in enumerate(steps, 1)])


def _refuse_address(spec: DatasetSpec, out: Path | str) -> None:
    if spec.access is Access.CREDENTIALED and "://" in str(out):
        raise DataError(
            f"{out}: {spec.name} is credentialed: it, and what is made of it, stays where you control who reads it. "
            "Give a folder of this machine; nothing is written outside of that folder"
        )


def _with_totals(spec: DatasetSpec, raw: Raw) -> dict[str, RawSplit]:
    """Splits that cannot be counted before reading take the published number, for the progress bar."""
    return {
        name: split if split.total is not None else replace(split, total=spec.published.get(name))
        for name, split in raw.splits.items()
    }


def _fingerprint(spec: DatasetSpec, raw: Raw, shard_rows: int) -> str:
    """Changes with the data set, the sizes of its deciding files, and the cut into shards."""
    files = sorted((path.name, path.stat().st_size) for path in raw.files)
    asked = json.dumps([FORMAT, spec.name, list(raw.splits), files, raw.identity, shard_rows])
    return hashlib.sha256(asked.encode()).hexdigest()


def _existing(out: Path, fingerprint: str) -> Manifest:
    manifest = read_manifest(out)
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{out} already holds {manifest.name!r} made from other data or settings; "
            "give another folder, or remove this one to prepare it anew"
        )
    return manifest


def _clear_other_work(partial: Path, fingerprint: str) -> None:
    request = partial / REQUEST
    if request.exists() and json.loads(request.read_text()) == fingerprint:
        return
    for path in partial.iterdir():
        log.warning("%s holds unfinished work made from other data or settings; starting anew", path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(request, fingerprint)


def _write_split(
    folder: Path, name: str, split: RawSplit, pool: Executor | None, progress: Progress, shard_rows: int
) -> list[Shard]:
    numbers: dict[str, int] = {}
    shards: list[Shard] = []
    while shard := read_shard(_shard_folder(folder, len(shards))):
        shards.append(shard)
        for sha256 in shard.image_hashes:
            numbers[sha256] = len(numbers)
    rows = iter(split.rows())
    done = sum(shard.rows for shard in shards)
    next(islice(rows, done, done), None)  # these were written by an earlier run
    loaded: dict[str, str | DataError] = {}
    progress(name, done, split.total)
    while window := list(islice(rows, min(WINDOW, shard_rows))):
        writer = ShardWriter(_shard_folder(folder, len(shards)), numbers)
        while window:
            _write_window(writer, window, loaded, pool)
            progress(name, done + writer.rows, split.total)
            window = list(islice(rows, min(WINDOW, shard_rows - writer.rows)))
        shards.append(writer.close())
        done += writer.rows
    return shards


def _write_window(
    writer: ShardWriter, window: list[Row | BadRow], loaded: dict[str, str | DataError], pool: Executor | None
) -> None:
    """`loaded`: image key -> sha256 of its stored bytes, or why it cannot be used."""
    keys = {id(ref): ref.key() for row in window if isinstance(row, Row) for ref in row.images}
    wanted: dict[str, ImageRef] = {}
    for row in window:
        for ref in row.images if isinstance(row, Row) else ():
            known = loaded.get(keys[id(ref)])
            # An image may be known and yet not stored: when its earlier row was skipped for another image.
            if known is None or (isinstance(known, str) and known not in writer.numbers):
                wanted.setdefault(keys[id(ref)], ref)
    fresh: dict[str, NewImage] = {}
    for key, result in zip(wanted, _load_all(list(wanted.values()), pool), strict=True):
        if isinstance(result, NewImage):
            loaded[key] = hashlib.sha256(result.data).hexdigest()
            fresh[key] = result
        else:
            loaded[key] = result
    for row in window:
        if isinstance(row, BadRow):
            writer.skip(row)
            continue
        images: list[tuple[str, NewImage | None]] = []
        for ref in row.images:
            found = loaded[keys[id(ref)]]
            if isinstance(found, DataError):
                writer.skip(BadRow(row.file, row.row, str(found)))
                break
            images.append((found, fresh.get(keys[id(ref)])))
        else:
            writer.add(row, images)


def _load_all(refs: list[ImageRef], pool: Executor | None) -> Iterator[NewImage | DataError]:
    if pool is None:
        yield from map(_load, refs)
        return
    try:
        yield from pool.map(_load, refs, chunksize=8)
    except BrokenProcessPool as reason:
        raise DataError(
            "a worker process died while it decoded images (out of memory?); run again with fewer workers to continue"
        ) from reason


def _load(ref: ImageRef) -> NewImage | DataError:
    try:
        data = ref.read()
        return NewImage(storable(data, ref.name), identifying(data, ref.name) if is_dicom(data) else ())
    except DataError as reason:
        return reason
    except FileNotFoundError:
        return DataError(f"{ref.name}: image file not found")
    except (OSError, KeyError, zipfile.BadZipFile) as reason:
        return DataError(f"{ref.name}: cannot be read ({reason})")


def _pool(workers: int) -> ProcessPoolExecutor | nullcontext[None]:
    """Spawned, because a process that runs jax threads must not fork."""
    if workers <= 1:
        return nullcontext()
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Workers of a killed run would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _check_bad_rows(spec: DatasetSpec, done: dict[str, list[Shard]], max_bad_share: float, out: Path) -> None:
    bad = _bad_rows(done)
    listing = out.with_name(out.name + BAD_ROWS)
    listing.unlink(missing_ok=True)
    for row in bad[:SHOWN]:
        log.warning("skipped %s row %d: %s", row.file, row.row, row.reason)
    if len(bad) > SHOWN:
        log.warning("skipped %d rows more", len(bad) - SHOWN)
    too_many: list[str] = []
    for name, shards in done.items():
        rows, unusable = sum(shard.rows for shard in shards), sum(len(shard.skipped) for shard in shards)
        if not rows:
            raise DataError(f"split {name!r} of {spec.name} holds no row; are these all of its files?")
        if unusable / rows > max_bad_share or unusable == rows:
            too_many.append(f"split {name!r} of {spec.name}: {unusable} of {rows} rows cannot be used")
    if too_many:
        listing.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in bad), encoding="utf-8")
        raise DataError(
            f"{'; '.join(too_many)}, allowed share {max_bad_share:g}; first: {bad[0].file} row {bad[0].row}: "
            f"{bad[0].reason}. All of them are named in {listing}. Allow more with --config.max_bad_share=SHARE (the "
            f"finished work in {_partial(out)} is then used), or repair the files, remove that folder and run again"
        )


def _bad_rows(done: dict[str, list[Shard]]) -> list[SkippedRow]:
    return [
        SkippedRow(name, bad.file, bad.row, bad.reason)
        for name, shards in done.items()
        for shard in shards
        for bad in shard.skipped
    ]


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _check_sizes(spec: DatasetSpec, done: dict[str, list[Shard]], allowed: bool, partial: Path) -> None:
    found = {name: sum(shard.rows for shard in shards) for name, shards in done.items()}
    wrong = [
        f"split {name!r}: {found.get(name, 0)} rows found, {count} published"
        for name, count in spec.published.items()
        if found.get(name, 0) != count
    ]
    if spec.total is not None and sum(found.values()) != spec.total:
        wrong.append(f"all splits together: {sum(found.values())} rows found, {spec.total} published")
    if wrong and not allowed:
        raise DataError(
            f"{spec.name}: {'; '.join(wrong)}. These are other files than the published ones, or not all of them. "
            f"Go on with allow_other_sizes (the finished work in {partial} is then used), or get the files again"
        )
    for difference in wrong:
        log.warning("%s: %s", spec.name, difference)


def _manifest(
    spec: DatasetSpec, raw: Raw, done: dict[str, list[Shard]], partial: Path, fingerprint: str, command: str
) -> Manifest:
    return Manifest(
        format=FORMAT,
        name=spec.name,
        title=spec.title,
        source=spec.source,
        licence=spec.licence,
        access=spec.access.value,
        citation=spec.citation,
        command=command,
        fingerprint=fingerprint,
        splits={name: _finish_split(partial, name, shards, spec) for name, shards in done.items()},
        skipped=tuple(_bad_rows(done)),
        sources=raw.sources,
    )


def _finish_split(partial: Path, name: str, shards: list[Shard], spec: DatasetSpec) -> SplitInfo:
    """Gives the shard files their final names; shards without a record of a kind have no file of it."""
    files: list[DataFile] = []
    for kind in (SAMPLES, IMAGES):
        counts = [shard.samples if kind == SAMPLES else len(shard.image_hashes) for shard in shards]
        filled = [number for number, count in enumerate(counts) if count]
        for position, number in enumerate(filled):
            stem = kind.removesuffix(".array_record")
            target = partial / name / f"{stem}-{position:05d}-of-{len(filled):05d}.array_record"
            made = _shard_folder(partial / name, number) / kind
            if made.exists():  # else moved by a run that was killed here
                made.rename(target)
            files.append(DataFile(f"{name}/{target.name}", shards[number].sha256[kind], counts[number]))
    return SplitInfo(
        samples=sum(shard.samples for shard in shards),
        images=sum(len(shard.image_hashes) for shard in shards),
        skipped=sum(len(shard.skipped) for shard in shards),
        published=spec.published.get(name),
        files=tuple(files),
        identified=sum(shard.identified for shard in shards),
        identifying=dict(sum((Counter(shard.identifying) for shard in shards), Counter())),
    )


def _publish(partial: Path, out: Path) -> Manifest:
    for leftover in partial.glob("*/shard-*"):
        shutil.rmtree(leftover)
    (partial / REQUEST).unlink(missing_ok=True)
    if out.is_dir():
        out.rmdir()  # it is empty
    partial.rename(out)
    return read_manifest(out)


def _shard_folder(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"


def _silent(what: str, done: int, total: int | None) -> None:
    """The progress callback of a caller that asked for none."""
