"""Hugging Face datasets folders: Parquet files as on the hub, and Arrow files as `save_to_disk` writes
them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, conversation_turns, rows_of
from biomedgpt_jax.data.rows import BadRow, ImageBytes, ImageRef, Row, make_row, spaces

BATCH = 64
SHARD = re.compile(r"(.+?)(?:-\d+-of-\d+.*)?\.(?:parquet|arrow)")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what. Either `conversations` (LLaVA-style messages), or `question` and `answer`."""

    question: str = "question"
    answer: str = "answer"
    conversations: str | None = None
    image: str | None = "image"
    id: str | None = None
    meta: tuple[str, ...] = ()

    def needed(self) -> set[str]:
        text = {self.conversations} if self.conversations else {self.question, self.answer}
        return {name for name in {*text, self.image, self.id, *self.meta} if name}


def table_splits(folder: Path) -> dict[str, list[Path]]:
    """Split name -> its files, in order. Raises DataError when the folder holds neither Parquet nor Arrow
    files.
    """
    files = sorted([*folder.rglob("*.parquet"), *folder.rglob("*.arrow")])
    splits: dict[str, list[Path]] = {}
    for path in files:
        match = SHARD.fullmatch(path.name)
        name = match.group(1) if match else path.stem
        if path.suffix == ".arrow":  # save_to_disk: <split>/data-00000-of-00001.arrow
            name = path.parent.name if path.parent != folder else "train"
        splits.setdefault(name, []).append(path)
    if not splits:
        raise DataError(f"{folder}: no .parquet or .arrow file there or below; expected a Hugging Face data set")
    return splits


def read_tables(files: list[Path], columns: Columns, find_image: ImageFinder) -> Iterator[Row | BadRow]:
    """The rows of Parquet or Arrow files. Images are {bytes, path} records, bytes, paths, or lists of
    these.
    """
    for path in files:
        yield from rows_of(
            path.name,
            table_entries(path, columns.needed()),
            lambda row, entry, p=path: _row(p, row, entry, columns, find_image),
        )


def table_entries(path: Path, needed: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 1, {column: value}) of the needed columns of a Parquet or Arrow file; DataError when one is missing."""
    import pyarrow

    try:
        row = 0
        for batch in _batches(path, sorted(needed)):
            for entry in batch.to_pylist():
                row += 1
                yield row, entry
    except (pyarrow.ArrowException, OSError) as reason:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]} ({reason}); fetch it again") from reason


def _batches(path: Path, names: list[str]) -> Iterator[Any]:
    import pyarrow.ipc
    import pyarrow.parquet

    if path.suffix == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as table:
            _check_columns(path, table.schema_arrow.names, names)
            yield from table.iter_batches(BATCH, columns=names)
        return
    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as table:
        _check_columns(path, table.schema.names, names)
        for batch in table:
            for start in range(0, batch.num_rows, BATCH):
                yield batch.select(names).slice(start, BATCH)


def _check_columns(path: Path, found: list[str], needed: list[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataError(f"{path}: no column {missing}; found {sorted(found)}")


def _row(path: Path, row: int, entry: dict[str, Any], columns: Columns, find_image: ImageFinder) -> Row:
    name = f"{path.stem}-{row}"
    if columns.conversations:
        turns = conversation_turns(entry[columns.conversations])
    else:
        turns = [(as_text(entry[columns.question], "question"), as_text(entry[columns.answer], "answer"))]
    cell = entry[columns.image] if columns.image else None
    cells = [] if cell is None else cell if isinstance(cell, list) else [cell]
    return make_row(
        path.name,
        row,
        id=str(entry[columns.id]) if columns.id else name,
        images=[as_image(found, f"{name}-{number}", find_image) for number, found in enumerate(cells)],
        turns=turns,
        meta={column: entry[column] for column in columns.meta if entry[column] is not None},
    )


def as_text(value: Any, what: str) -> str:
    """Strings (or UTF-8 bytes, or numbers) with white space put in order; DataError otherwise."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as reason:
            raise DataError(f"{what} is not UTF-8") from reason
    if not isinstance(value, str | int | float):
        raise DataError(f"{what}: expected a string, found {type(value).__name__}")
    return spaces(str(value))


def as_image(cell: Any, name: str, find_image: ImageFinder) -> ImageRef:
    """An image cell as a reference; `name` is used where the cell names none."""
    if isinstance(cell, dict) and cell.get("bytes"):
        return ImageBytes(cell["bytes"], cell.get("path") or name)
    if isinstance(cell, dict) and cell.get("path"):
        return find_image(cell["path"])
    if isinstance(cell, bytes) and cell:
        return ImageBytes(cell, name)
    if isinstance(cell, str) and cell:
        return find_image(cell)
    raise DataError(f"image {name}: neither bytes nor a path")
