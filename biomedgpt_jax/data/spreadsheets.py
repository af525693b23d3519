"""Sheets of xlsx files, row by row. Needs the extra `tables` (imported when used)."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.rows import BadRow

INSTALL = "xlsx files need openpyxl: pip install 'biomedgpt-jax[tables]'"


def sheet_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | BadRow]]:
    """(row of the sheet, {column: text}) of the first sheet, whose row 1 names the columns; empty rows are left out.

    A row that lacks a needed cell is a BadRow. Raises DataError for another file, or where a column is missing.
    """
    try:
        import openpyxl
    except ImportError as reason:
        raise DataError(f"{path}: {INSTALL}") from reason
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = book.worksheets[0].iter_rows(values_only=True)
        names = ["" if cell is None else str(cell).strip() for cell in next(rows, ())]
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, IndexError) as reason:
        raise DataError(f"{path}: not a readable xlsx file ({reason}); get it again") from reason
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"{path}: no column {missing}; found {names[:30]}")
    try:
        for number, cells in enumerate(rows, 2):
            entry = {name: str(cell) for name, cell in zip(names, cells, strict=False) if cell is not None}
            if not entry:
                continue
            lacking = [name for name in needed if name not in entry]
            yield number, BadRow(path.name, number, f"no cell in column {lacking}") if lacking else entry
    finally:
        book.close()
