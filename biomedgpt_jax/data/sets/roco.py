"""ROCO: radiology figures of PubMed Central with their captions."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from biomedgpt_jax.data.download import fetch_pmc_figures, fetch_url
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, files_in, numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, spaces
from biomedgpt_jax.data.sets.wording import caption_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit, Report

BASE = "https://raw.githubusercontent.com/razorx89/roco-dataset/master/data"
SPLITS = ("train", "validation", "test")
KIND = "radiology"
CAPTIONS, LINKS, LICENCES, LISTING = "captions.txt", "dlinks.txt", "licences.txt", "listing.jsonl"


def fetch(folder: Path, report: Report) -> None:
    """The lists from GitHub, then the figures from PubMed Central, article by article (slow)."""
    for split in SPLITS:
        part = folder / "data" / split / KIND
        part.mkdir(parents=True, exist_ok=True)
        for name in (CAPTIONS, LINKS, LICENCES):
            fetch_url(f"{BASE}/{split}/{KIND}/{name}", part / name, report)
        figures = list(_links(part / LINKS))
        (part / LISTING).write_text("".join(json.dumps(figure) + "\n" for figure in figures))
        fetch_pmc_figures(part / LISTING, {figure["pair_id"] for figure in figures}, part / "images", report)


def _links(path: Path) -> Iterator[dict[str, str]]:
    """Lines of id, tab, `wget -r ADDRESS -P ...`, tab, name of the figure in the article's archive."""
    for number, line in numbered_lines(path):
        try:
            name, command, figure = str(line).split("\t")
            url = next(word for word in command.split() if word.endswith(".tar.gz"))
        except (ValueError, StopIteration) as reason:
            raise DataError(f"{path} line {number}: expected id, download command and figure") from reason
        article = url.rsplit("/", 1)[-1].removesuffix(".tar.gz")
        yield {"pair_id": name, "pmc_tar_url": url, "image_file_path": f"{article}/{figure.strip()}"}


def read(folder: Path) -> Raw:
    """`data/SPLIT/radiology/` with captions.txt and images/, named by ROCO's ids or, as its own script does, by
    article and figure.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    paths = {split: root / split / KIND / CAPTIONS for split in SPLITS}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise DataError(f"{', '.join(missing)}: no such file; expected a copy of the repository of ROCO")
    splits = {split: RawSplit(lambda path=path: _rows(path), None) for split, path in paths.items()}
    return Raw(splits, tuple(paths.values()))


def _rows(path: Path) -> Iterator[Row | BadRow]:
    find, name_of = files_in(path.parent / "images"), _names(path.parent)
    licence_of = _licences(path.parent / LICENCES)

    def make(row: int, line: str) -> Row:
        return _row(path, row, line, find, name_of, licence_of)

    return rows_of(path.name, numbered_lines(path), make)


def _names(folder: Path) -> Callable[[str], str]:
    """The file of a figure, by its id."""
    if not (folder / LINKS).is_file() or (folder / LISTING).is_file():
        return lambda name: f"{name}.jpg"
    files = {each["pair_id"]: each["image_file_path"].replace("/", "_") for each in _links(folder / LINKS)}
    return lambda name: f"{name}.jpg" if (folder / "images" / f"{name}.jpg").exists() else files.get(name, name)


def _licences(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {line["ROCO_ID"]: line["CC"] for line in csv.DictReader(file) if line.keys() >= {"ROCO_ID", "CC"}}


def _row(
    path: Path,
    row: int,
    line: str,
    find: ImageFinder,
    name_of: Callable[[str], str],
    licence_of: dict[str, str],
) -> Row:
    name, mark, caption = line.partition("\t")
    if not mark:
        raise DataError("expected 2 tab-separated columns, found 1")
    facts = {"modality": "radiology", "licence": licence_of.get(name)}
    return caption_row(path.name, row, f"roco-{name}", find(name_of(name)), spaces(caption), **facts)


ROCO = DatasetSpec(
    name="roco",
    title="ROCO, captions of radiology figures",
    task="captioning",
    protocol="caption/v1",
    modality="radiology",
    source="https://github.com/razorx89/roco-dataset",
    licence="per figure, in meta.licence",
    access=Access.OPEN,
    citation=(
        "O. Pelka, S. Koitka, J. Rückert, F. Nensa, C. M. Friedrich. Radiology Objects in COntext (ROCO): a multimodal "
        "image dataset. LABELS 2018."
    ),
    # Some articles have left PubMed Central's open subset: allow a share of bad rows.
    published={},
    read=read,
    download=fetch,
    member=Member.UNKNOWN,
    checked="real captions, licences and links, in part; the figures were not seen",
)

SPECS = (ROCO,)
