"""A data set as a row of facts and two functions: how to get its files and how to read them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from biomedgpt_jax.data.rows import BadRow, Row

# (what, bytes or items done, total if known)
Report = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Source:
    """One source of a data set that has several (a patient, a volume, a package)."""

    name: str
    split: str
    images: int
    origin: str
    licence: str


@dataclass(frozen=True)
class RawSplit:
    """`rows()` starts reading the split from its beginning, always in the same order."""

    rows: Callable[[], Iterable[Row | BadRow]]
    total: int | None


@dataclass(frozen=True)
class Raw:
    """Raw data ready to be read. `files`: those that decide its contents (another size means other data);
    `identity` says the same for data that is made, not read from files.
    """

    splits: Mapping[str, RawSplit]
    files: tuple[Path, ...]
    sources: tuple[Source, ...] = ()
    identity: str = ""


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    `published`: samples per split as `read` should find them (bad rows included); a difference is logged and
    stands in the manifest. `download(folder, report)` is None for data that is local by nature.
    """

    name: str
    title: str
    source: str
    licence: str
    access: str
    citation: str
    published: Mapping[str, int]
    read: Callable[[Path], Raw]
    download: Callable[[Path, Report], None] | None
