"""Tab-separated files: BiomedGPT's layout without a header, and a plain one with a header line."""

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, ImageBytes, Row, make_row, spaces

BIOMEDGPT_COLUMNS = ("question_id", "image_id", "question", "answer", "objects", "image")
CONFIDENCE = "|!+"


def read_biomedgpt_tsv(path: Path) -> Iterator[Row | BadRow]:
    """BiomedGPT's VQA files: question_id, image_id, question, `confidence|!+answer`, objects, base64 image.

    Of several answers (joined by &&) the most confident is taken.
    """
    return rows_of(path.name, numbered_lines(path), lambda row, line: _biomedgpt_row(path, row, line))


def read_tsv(path: Path, find_image: ImageFinder) -> Iterator[Row | BadRow]:
    """A header line with `question`, `answer` and optionally `id`, `image` (a path); other columns go to
    `meta`.
    """
    lines = numbered_lines(path)
    _, header = next(lines, (0, ""))
    names = header.split("\t") if isinstance(header, str) else []
    if not {"question", "answer"} <= set(names):
        raise DataError(f"{path}: expected a header line with question and answer, found {names[:8]}")
    return rows_of(path.name, lines, lambda row, line: _tsv_row(path, row, line, names, find_image))


def _biomedgpt_row(path: Path, row: int, line: str) -> Row:
    cells = dict(zip(BIOMEDGPT_COLUMNS, _cells(line, len(BIOMEDGPT_COLUMNS)), strict=True))
    try:
        # Both alphabets occur in published files.
        image = base64.b64decode(cells["image"].translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError) as reason:
        raise DataError(f"image column is not base64 ({reason})") from reason
    answer = _best_answer(cells["answer"])
    meta = {
        "answer_type": "closed" if answer.lower() in ("yes", "no") else "open",
        "image_name": cells["image_id"],
        "task": "vqa",
        "objects": cells["objects"],
    }
    return make_row(
        path.name,
        row,
        id=f"{path.stem}-{cells['question_id']}",
        images=[ImageBytes(image, cells["image_id"])],
        turns=[(spaces(cells["question"]), answer)],
        meta=meta,
    )


def _best_answer(cell: str) -> str:
    best, confidence = "", float("-inf")
    for part in cell.split("&&"):
        number, mark, answer = part.partition(CONFIDENCE)
        try:
            value = float(number)
        except ValueError:
            mark = ""
        if not mark:
            raise DataError(f"answer column: expected confidence{CONFIDENCE}answer")
        if value > confidence:
            best, confidence = spaces(answer), value
    return best


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
