"""The built-in set: real medical pictures that pip packages ship, with questions that are true by header or
publisher.

It proves the pipeline where no data set can be downloaded. 26 sources (docs/builtin_data.md) are too
few to say how good a model is.
"""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from biomedgpt_jax.data.builtin_cuts import Picture
from biomedgpt_jax.data.builtin_sources import PACKAGES, SOURCES, BuiltinSource
from biomedgpt_jax.data.package_files import fetch_wheels, read_package_file
from biomedgpt_jax.data.rows import ImageBytes, Row, make_row
from biomedgpt_jax.data.spec import Raw, RawSplit, Report, Source

MODALITY_QUESTION = "Which imaging modality is this?"
BODY_PART_QUESTION = "Which part of the body is shown?"
PLANE_QUESTION = "In which plane is this slice?"


def fetch(folder: Path, report: Report) -> None:
    """Wheels of the packages that are not installed, by pip, into `folder`."""
    report("package wheels", 0, len(PACKAGES))
    fetch_wheels(PACKAGES, folder)
    report("package wheels", len(PACKAGES), len(PACKAGES))


def read(folder: Path) -> Raw:
    """Train and test rows, split by source. `folder` may hold wheels of packages that are not installed."""
    made = [(source, source.cut(_file(source, folder), source.name)) for source in SOURCES]
    rows = [row for source, pictures in made for row in _rows(source, pictures)]
    splits = {}
    for split in ("train", "test"):
        mine = [row for row in rows if row.meta["split"] == split]
        splits[split] = RawSplit(lambda mine=mine: mine, len(mine))
    sources = tuple(
        Source(
            name=source.name,
            split=source.split,
            images=len(pictures),
            origin=f"{source.package.requirement}: {source.path}. {source.evidence}",
            licence=source.licence,
        )
        for source, pictures in made
    )
    identity = hashlib.sha256("".join(f"{row.id}{row.turns}{row.images[0].key()}" for row in rows).encode())
    return Raw(splits, (), sources, identity.hexdigest())


def _file(source: BuiltinSource, folder: Path) -> bytes:
    return read_package_file(source.package, source.path, source.sha256, folder)


def _rows(source: BuiltinSource, pictures: list[Picture]) -> Iterator[Row]:
    for number, picture in enumerate(pictures):
        name = f"{source.name}-{number:02d}.png"
        out = io.BytesIO()
        Image.fromarray(picture.rgb).save(out, "PNG", compress_level=1)
        image = ImageBytes(out.getvalue(), name)
        asked = {
            "modality": (MODALITY_QUESTION, source.modality, _answers("modality")),
            "organ": (BODY_PART_QUESTION, source.body_part, _answers("body_part")),
            "plane": (PLANE_QUESTION, picture.plane, ["axial", "coronal", "sagittal"]),
        }
        for task, (question, answer, choices) in asked.items():
            if answer is None:
                continue
            meta = {
                "answer_type": "closed",
                "question_type": task.upper(),
                "image_name": name,
                "task": task,
                "choices": choices,
                "source": source.name,
                "split": source.split,
            }
            id = f"builtin-{source.name}-{number:02d}-{task}"
            yield make_row(source.path, number + 1, id=id, images=[image], turns=[(question, answer)], meta=meta)


def _answers(field: str) -> list[str]:
    return sorted({getattr(source, field) for source in SOURCES} - {None})
