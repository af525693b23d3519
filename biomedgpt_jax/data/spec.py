"""A data set as a row of facts and two functions: how to get its files and how to read them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
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
    `identity` says the same for data that is made, not read from files, and for settings of the reading.
    """

    splits: Mapping[str, RawSplit]
    files: tuple[Path, ...]
    sources: tuple[Source, ...] = ()
    identity: str = ""


class Access(Enum):
    """Who may have the files."""

    OPEN = "open"
    RESEARCH = "research only"
    REGISTRATION = "free registration"
    CREDENTIALED = "credentialed"  # training and a signed agreement; neither files nor what is made of them travel
    LOCAL = "local"


class Member(Enum):
    """Whether a data set is one of the 23 of BiomedGPT's scaled study (2505.17436), whose list is not published."""

    CONFIRMED = "confirmed"
    LIKELY = "likely"
    UNKNOWN = "unknown"
    NO = "no"


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    `published`: samples per split, or `total` of all splits, as `read` should find them (bad rows included); another
    number is an error unless it is allowed. `splits` says who made them, `checked` how far the reader was held
    against real files. `download(folder, report)` is None for data that no program may or can fetch; `steps` then
    say how a person gets it. `protocol` is the name of the metric protocol under which its answers are scored where no
    other is asked for, None for data to learn from alone.
    """

    name: str
    title: str
    task: str
    protocol: str | None
    modality: str
    source: str
    licence: str
    access: Access
    citation: str
    published: Mapping[str, int]
    read: Callable[[Path], Raw]
    download: Callable[[Path, Report], None] | None
    splits: str = "published"
    member: Member = Member.NO
    checked: str = "layout as published; the real files were not seen"
    total: int | None = None
    steps: tuple[str, ...] = ()
