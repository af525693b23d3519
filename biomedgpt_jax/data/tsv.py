"""Tab-separated files with a header line."""

from collections.abc import Iterator
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces


def read_tsv(path: Path, find_image: ImageFinder) -> Iterator[Row | BadRow]:
    """A header line with `question`, `answer` and optionally `id`, `image` (a path); other columns go to
    `meta`.
    """
    lines = numbered_lines(path)
    _, header = next(lines, (0, ""))
    names = header.split("\t") if isinstance(header, str) else []
    if not {"question", "answer"} <= set(names):
        raise DataError(f"{path}: expected a header line with question and answer, found {names[:8]}")
    filled = ((row, line) for row, line in lines if line)
    return rows_of(path.name, filled, lambda row, line: _tsv_row(path, row, line, names, find_image))


def _tsv_row(path: Path, row: int, line: str, names: list[str], find_image: ImageFinder) -> Row:
    cells = dict(zip(names, _cells(line, len(names)), strict=True))
    image = cells.pop("image", "")
    turns = [(spaces(cells.pop("question")), spaces(cells.pop("answer")))]
    id = cells.pop("id", "") or f"{path.stem}-{row}"
    images = [find_image(image)] if image else []
    return make_row(path.name, row, id=id, images=images, turns=turns, meta=cells)


def _cells(line: str, expected: int) -> list[str]:
    cells = line.split("\t")
    if len(cells) != expected:
        raise DataError(f"expected {expected} tab-separated columns, found {len(cells)}")
    return cells
