"""manifest.json: what a prepared folder holds, where it came from, and what was left out."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.spec import Source
from biomedgpt_jax.data.writer import write_json

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class DataFile:
    """A file of a split; `path` is relative to the prepared folder."""

    path: str
    sha256: str
    records: int


@dataclass(frozen=True)
class SplitInfo:
    """`published`: the number of samples its authors state (before skipping), or None. `identified`: how many images
    came from DICOM files whose headers identify a person or place, and `identifying` by field; a prepared image has no
    header.
    """

    samples: int
    images: int
    skipped: int
    published: int | None
    files: tuple[DataFile, ...]
    identified: int = 0
    identifying: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SkippedRow:
    split: str
    file: str
    row: int
    reason: str


@dataclass(frozen=True)
class Manifest:
    format: int
    name: str
    title: str
    source: str
    licence: str
    access: str
    citation: str
    command: str
    fingerprint: str
    splits: dict[str, SplitInfo]
    skipped: tuple[SkippedRow, ...]
    sources: tuple[Source, ...]

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, asdict(self))


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError when the folder holds no whole prepared data set."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise DataError(f"{folder} holds no {MANIFEST}: not a prepared data set; run `biomedgpt prepare`") from reason
    except ValueError as reason:
        raise DataError(f"{path} is not readable JSON ({reason}); prepare the data set again") from reason
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        version = found.get("format") if isinstance(found, dict) else None
        raise DataError(f"{path}: expected manifest format {FORMAT}, found {version}; prepare the data set again")
    splits = {
        name: SplitInfo(**{**split, "files": tuple(DataFile(**file) for file in split["files"])})
        for name, split in found.pop("splits").items()
    }
    skipped = tuple(SkippedRow(**row) for row in found.pop("skipped"))
    sources = tuple(Source(**source) for source in found.pop("sources"))
    return Manifest(splits=splits, skipped=skipped, sources=sources, **found)
