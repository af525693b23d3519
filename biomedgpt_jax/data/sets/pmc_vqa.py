"""PMC-VQA: multiple-choice questions about figures of PubMed Central."""

from collections.abc import Iterator
from pathlib import Path

from biomedgpt_jax.data.comma_separated import csv_rows
from biomedgpt_jax.data.download import fetch_hub
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.layouts import raw_named
from biomedgpt_jax.data.readers import ImageFinder, images_beside, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces
from biomedgpt_jax.data.sets.wording import closed, lettered
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, Report

REPO = "RadGenome/PMC-VQA"
FILES = {"train": "train.csv", "test": "test.csv", "test_clean": "test_clean.csv"}
LETTERS = "ABCD"
COLUMNS = ("Figure_path", "Question", "Answer", *(f"Choice {letter}" for letter in LETTERS))


def fetch(folder: Path, report: Report) -> None:
    fetch_hub(REPO, [*FILES.values(), "images.zip"], folder)


def read(folder: Path) -> Raw:
    """The first version, with figures in `images/` or `images.zip`; `test_clean` is the checked part of the test."""
    find = images_beside(folder / "images", folder / "images", "images.zip", depth=1)
    return raw_named(folder, FILES, lambda path: _rows(path, find))


def _rows(path: Path, find: ImageFinder) -> Iterator[Row | BadRow]:
    return rows_of(path.name, csv_rows(path, COLUMNS), lambda row, entry: _row(path, row, entry, find))


def _row(path: Path, row: int, entry: dict[str, str], find: ImageFinder) -> Row:
    options = {letter: _option(entry[f"Choice {letter}"], letter) for letter in LETTERS}
    right = spaces(entry.get("Answer_label") or entry["Answer"])
    if right not in options:
        raise DataError(f"the right choice is {right[:20]!r}: expected one of {', '.join(LETTERS)}")
    return make_row(
        path.name,
        row,
        id=f"pmc_vqa-{path.stem}-{row}",
        images=[find(entry["Figure_path"])],
        turns=[(lettered(spaces(entry["Question"]), options), options[right])],
        meta=closed("vqa", list(options.values()), question_type="multiple choice", letter=right),
    )


def _option(text: str, letter: str) -> str:
    """Without the letter that stands in front of it."""
    return spaces(spaces(text).removeprefix(f"{letter}:"))


PMC_VQA = DatasetSpec(
    name="pmc_vqa",
    title="PMC-VQA, version 1, four choices",
    task="VQA",
    protocol="pmc-vqa/v1",
    modality="figures of articles",
    source=f"https://huggingface.co/datasets/{REPO}",
    licence="CC-BY-SA (card; figures: CC0 or CC-BY)",
    access=Access.OPEN,
    citation="X. Zhang et al. PMC-VQA: visual instruction tuning for medical visual question answering. 2023.",
    published={"train": 176948, "test": 50000, "test_clean": 2000},
    read=read,
    download=fetch,
    checked="layout from its card; sizes from the card of a copy and the paper; the real files were not seen",
)

SPECS = (PMC_VQA,)
