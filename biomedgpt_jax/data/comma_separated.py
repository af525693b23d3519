"""Comma-separated files with a header line, plain or gzip, read row by row."""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.rows import BadRow


def csv_rows(path: Path, needed: Iterable[str]) -> Iterator[tuple[int, dict[str, str] | BadRow]]:
    """(row from 1 after the header, {column: text}); a row of another number of columns is a BadRow.

    White space around the names of columns is dropped. Raises DataError when a needed column is missing, or the file
    is damaged.
    """
    with _open(path) as file:
        lines = csv.reader(file)
        names = [name.strip() for name in next(lines, [])]
        missing = [name for name in needed if name not in names]
        if missing:
            raise DataError(f"{path}: no column {missing}; found {names[:30]}")
        number = 0
        while True:
            number += 1
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as reason:
                yield number, BadRow(path.name, number, f"not comma-separated text ({reason})")
                continue
            except (EOFError, gzip.BadGzipFile, zlib.error) as reason:
                raise DataError(f"{path}: damaged in row {number} ({reason}); get it again") from reason
            if len(cells) != len(names):
                reason = f"expected {len(names)} comma-separated columns, found {len(cells)}"
                yield number, BadRow(path.name, number, reason)
            else:
                yield number, dict(zip(names, cells, strict=True))


def plain_or_gzip(folder: Path, name: str) -> Path:
    """`name` or `name.gz`, in the folder or below. Raises DataError with what is there instead."""
    found = sorted([*folder.rglob(name), *folder.rglob(f"{name}.gz")])
    if not found:
        listing = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{folder}: no file {name} or {name}.gz there or below; the folder holds: {listing}")
    return found[0]


def _open(path: Path) -> TextIOWrapper:
    # Bytes that are not UTF-8 stay visible as lone surrogates, which the check of a row's text names.
    plain, errors = "utf-8-sig", "surrogateescape"
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=plain, errors=errors, newline="")
    return path.open(encoding=plain, errors=errors, newline="")
