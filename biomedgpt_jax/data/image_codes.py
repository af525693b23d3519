"""Prepared images with the codes of their middles as answers: what a model learns to fill a hole in a picture from.

A sample per distinct image, `meta.task` "image_codes"; its answer is the codes row by row, as in BiomedGPT's image.tsv.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.manifest import DataFile, Manifest, SplitInfo, read_manifest
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.writer import SAMPLES, file_sha256, locked

TASK, QUESTION = "image_codes", "what is the image in the middle part?"
PICTURE, MIDDLE = 256, 128  # pixels per side: of the whole as it is resized, and of the part that has codes
GEOMETRY = Geometry.RESIZE

ReadCodes = Callable[[PreparedSplit, int], np.ndarray]  # image record -> int32 [codes]


def middle(data: bytes, name: str) -> np.ndarray:
    """Encoded bytes -> uint8 [128 128 3], the centre of the picture at 256 x 256. DataError as `load_square`."""
    edge = (PICTURE - MIDDLE) // 2
    whole = load_square(data, PICTURE, GEOMETRY, (0, 0, 0), name)
    return whole[edge : edge + MIDDLE, edge : edge + MIDDLE]


def write_code_samples(
    source: Path, out: Path, codes: ReadCodes, *, command: str, progress: Callable[[str, int, int], None]
) -> Manifest:
    """A prepared folder with the images of `source`, which appears when it is complete.

    Raises:
        DataError: `out` is taken, or `source` is damaged.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty; give another folder, or remove this one")
    part = out.with_name(f"{out.name}.partial")
    part.mkdir(parents=True, exist_ok=True)
    with locked(part):
        found = read_manifest(source)
        splits = {
            name: _split(PreparedSplit(source, name), info, part, codes, progress)
            for name, info in found.splits.items()
        }
        manifest = _manifest(found, splits, command)
        manifest.write(part)
    if out.exists():
        out.rmdir()
    part.rename(out)
    return manifest


def _split(
    split: PreparedSplit, info: SplitInfo, part: Path, codes: ReadCodes, progress: Callable[[str, int, int], None]
) -> SplitInfo:
    images = tuple(file for file in info.files if Path(file.path).name.startswith("images"))
    for file in images:
        _link(split.directory / file.path, part / file.path)
    path = f"{split.split}/{SAMPLES}"
    (part / path).parent.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(part / path), "group_size:1")
    for number in range(split.num_images):
        answer = " ".join(map(str, codes(split, number).reshape(-1).tolist()))
        writer.write(json.dumps(_sample(f"{split.split}-{number}", number, answer)).encode())
        progress("write", number + 1, split.num_images)
    writer.close()
    samples = DataFile(path, file_sha256(part / path), split.num_images)
    return replace(info, samples=split.num_images, published=None, skipped=0, files=(samples, *images))


def _sample(name: str, number: int, answer: str) -> dict[str, Any]:
    turns = [{"question": QUESTION, "answer": answer}]
    return {"id": name, "images": [number], "turns": turns, "meta": {"task": TASK}}


def _manifest(found: Manifest, splits: dict[str, SplitInfo], command: str) -> Manifest:
    made = json.dumps(
        [found.fingerprint, {name: [file.sha256 for file in info.files] for name, info in splits.items()}]
    )
    return replace(
        found,
        name=f"{found.name}_codes",
        title=f"Image codes of {found.title}",
        command=command,
        fingerprint=hashlib.sha256(made.encode()).hexdigest(),
        splits=splits,
        skipped=(),
    )


def _link(file: Path, target: Path) -> None:
    """The same bytes, once on the disk where both lie on one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
