"""What a reader hands to the writer: a row with its images still unread, or a report of a bad row."""

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.limits import refuse_bytes

IMAGE_PLACE = "<image>"
MAX_NAME_BYTES = 255  # of a file's name, on every usual file system
MAX_QUOTED = 80  # characters of a name from the data that a message shows


@dataclass(frozen=True)
class ImageFile:
    """An image that lies in a file of its own, below `root`. `key()` is equal for references to the same bytes."""

    path: Path
    name: str
    root: Path

    def key(self) -> str:
        return f"file:{self.path}"

    def read(self) -> bytes:
        """Raises DataError for what is no plain file below root, and for one that is too large to be an image."""
        real, wall = Path(os.path.realpath(self.path, strict=True)), _wall(self.root)
        if not real.is_relative_to(wall):
            raise DataError(f"{self.name}: a link to {real}, outside of {wall}; put the file itself there")
        if not real.is_file():
            raise DataError(f"{self.name}: not a plain file")
        refuse_bytes(real.stat().st_size, self.name)
        return real.read_bytes()


@dataclass(frozen=True)
class ImageMember:
    """An image inside a zip archive, read without unpacking the archive."""

    archive: Path
    member: str
    name: str

    def key(self) -> str:
        return f"member:{self.archive}:{self.member}"

    def read(self) -> bytes:
        with zipfile.ZipFile(self.archive) as archive:
            refuse_bytes(archive.getinfo(self.member).file_size, self.name)
            return archive.read(self.member)


@dataclass(frozen=True)
class ImageBytes:
    """An image whose bytes stand in the row itself (Parquet, base64)."""

    data: bytes
    name: str

    def key(self) -> str:
        return f"bytes:{hashlib.sha256(self.data).hexdigest()}"

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True, eq=False)
class ImagePixels:
    """An image that is an array, uint8 [h w] or [h w 3]; it becomes a PNG file when it is read."""

    pixels: np.ndarray
    name: str

    def key(self) -> str:
        return f"pixels:{self.pixels.shape}:{hashlib.sha256(self.pixels.tobytes()).hexdigest()}"

    def read(self) -> bytes:
        out = io.BytesIO()
        Image.fromarray(self.pixels).save(out, "PNG")
        return out.getvalue()


ImageRef = ImageFile | ImageMember | ImageBytes | ImagePixels


@dataclass(frozen=True)
class Row:
    """One sample. `turns` are (question, answer); `file` and `row` (from 1) say where it was read."""

    file: str
    row: int
    id: str
    images: tuple[ImageRef, ...]
    turns: tuple[tuple[str, str], ...]
    meta: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that could not be used, and why. It is counted and listed in the manifest."""

    file: str
    row: int
    reason: str


def make_row(
    file: str,
    row: int,
    *,
    id: str,
    images: Sequence[ImageRef],
    turns: Sequence[tuple[str, str]],
    meta: dict[str, Any],
) -> Row:
    """Checks the text of a row. Raises DataError with the reason, which the readers turn into a BadRow."""
    check_text(id, "id")
    for key, value in meta.items():
        items = value if isinstance(value, list) else [value]
        for text in (key, *(item for item in items if isinstance(item, str))):
            check_text(text, f"field {key[:MAX_QUOTED]!r}")
    if not turns:
        raise DataError("no question-answer turn")
    for number, (question, answer) in enumerate(turns, 1):
        for kind, text in (("question", question), ("answer", answer)):
            check_text(text, f"{kind} of turn {number}")
        if IMAGE_PLACE in answer:
            raise DataError(f"the answer of turn {number} contains {IMAGE_PLACE}")
        if not answer.strip():
            raise DataError(f"the answer of turn {number} is empty")
        if not question.replace(IMAGE_PLACE, "").strip() and not images:
            raise DataError(f"the question of turn {number} is empty")
    places = sum(question.count(IMAGE_PLACE) for question, _ in turns)
    if places not in (0, len(images)):
        raise DataError(f"{places} {IMAGE_PLACE} in the questions, {len(images)} images in the row")
    return Row(file, row, id, tuple(images), tuple(turns), meta)


def check_text(text: object, what: str) -> None:
    """Raises DataError unless `text` is a string that UTF-8 can hold, without NUL bytes."""
    if not isinstance(text, str):
        raise DataError(f"{what}: expected a string, found {type(text).__name__}")
    if "\0" in text:
        raise DataError(f"{what} contains a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError as reason:
        raise DataError(f"{what} is not valid Unicode ({reason.reason})") from reason


def inside(root: Path, name: object) -> Path:
    """`root/name` for a relative name that stays inside root; otherwise DataError (absolute, '..', NUL,
    backslash).
    """
    check_text(name, "image path")
    path = PurePosixPath(str(name))
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in str(name) or ":" in path.parts[0]:
        raise DataError(f"image path {str(name)[:MAX_QUOTED]!r}: expected a relative path inside the image folder")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts):
        raise DataError(f"image path {str(name)[:MAX_QUOTED]!r}...: a name of more than {MAX_NAME_BYTES} bytes")
    return root / path


def image_file(root: Path, name: object) -> ImageFile:
    """The image `root/name`; DataError as of `inside`."""
    return ImageFile(inside(root, name), str(name), root)


def spaces(text: str) -> str:
    """Runs of white space (also tabs and line ends) as one space, none at the ends."""
    return " ".join(text.split())


@cache
def _wall(root: Path) -> Path:
    """The folder that links below root may not lead out of."""
    real = root.resolve()
    for folder in real.parents:
        # Hugging Face's download cache links the files of snapshots/ to blobs/ beside it.
        if folder.name == "snapshots" and (folder.parent / "blobs").is_dir():
            return folder.parent
    return real
