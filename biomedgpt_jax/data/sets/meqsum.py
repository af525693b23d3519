"""MeQSum: questions of consumers and their summaries, as BiomedGPT splits them and as first published."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.download import fetch_mirrors, fetch_url
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.layouts import raw_named
from biomedgpt_jax.data.readers import find_one, numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, spaces
from biomedgpt_jax.data.sets.wording import summary_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, Report
from biomedgpt_jax.data.splits import split_rows
from biomedgpt_jax.data.spreadsheets import sheet_rows

SPLIT_BASE = "https://raw.githubusercontent.com/taokz/BiomedGPT/main/datasets/finetuning/MeQSum"
SPLIT_FILES = {"train": "train.tsv", "validation": "val.tsv", "test": "test.tsv"}
SHEET = "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx"
SHEET_URLS = (
    f"https://github.com/abachaa/MeQSum/raw/master/{SHEET}",
    f"https://huggingface.co/datasets/sumedh/MeQSum/resolve/main/{SHEET}",
)


def fetch_split(folder: Path, report: Report) -> None:
    for name in SPLIT_FILES.values():
        fetch_url(f"{SPLIT_BASE}/{name}", folder / name, report)


def read_split(folder: Path) -> Raw:
    """Lines of question, tab, summary, without a header."""
    return raw_named(folder, SPLIT_FILES, _split_rows)


def _split_rows(path: Path) -> Iterator[Row | BadRow]:
    return rows_of(path.name, numbered_lines(path), lambda row, line: _split_row(path, row, line))


def _split_row(path: Path, row: int, line: str) -> Row:
    cells = line.split("\t")
    if len(cells) != 2:
        raise DataError(f"expected 2 tab-separated columns, found {len(cells)}")
    return summary_row(
        path.name, row, f"meqsum-{path.stem}-{row}", spaces(cells[0]), spaces(cells[1]), "this consumer's question"
    )


def fetch_sheet(folder: Path, report: Report) -> None:
    fetch_mirrors(SHEET_URLS, folder / SHEET, report)


def read_sheet(folder: Path) -> Raw:
    """The spreadsheet of the authors: columns File, CHQ and Summary."""
    path = find_one(folder, SHEET)
    return Raw(split_rows(lambda: _sheet_rows(path), lambda row: row.id), (path,))


def _sheet_rows(path: Path) -> Iterator[Row | BadRow]:
    entries = sheet_rows(path, ("File", "CHQ", "Summary"))
    return rows_of(path.name, entries, lambda row, entry: _sheet_row(path, row, entry))


def _sheet_row(path: Path, row: int, entry: dict[str, str]) -> Row:
    id = f"meqsum-{spaces(entry['File'])}"
    return summary_row(path.name, row, id, spaces(entry["CHQ"]), spaces(entry["Summary"]), "this consumer's question")


def _spec(name: str, title: str, **facts: Any) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task="summarisation",
        protocol="summary/v1",
        modality="text (consumer questions)",
        licence="not stated",
        access=Access.OPEN,
        citation="A. Ben Abacha, D. Demner-Fushman. On the summarization of consumer health questions. ACL 2019.",
        **facts,
    )


MEQSUM = _spec(
    "meqsum",
    "MeQSum, split as BiomedGPT's release has it",
    source=SPLIT_BASE,
    published={"train": 800, "validation": 100, "test": 100},
    read=read_split,
    download=fetch_split,
    splits="published by BiomedGPT",
    member=Member.LIKELY,
    checked="the real test file, in part",
)
MEQSUM_SHEET = _spec(
    "meqsum_original",
    "MeQSum, the authors' spreadsheet",
    source=SHEET_URLS[0],
    published={},
    total=1000,
    read=read_sheet,
    download=fetch_sheet,
    splits="ours, by file",
)

SPECS = (MEQSUM, MEQSUM_SHEET)
