"""The tab-separated files of BiomedGPT, which have no header: those of pre-training and of each fine-tuning task.

| table           | columns                                                                              |
|-----------------|--------------------------------------------------------------------------------------|
| vqa             | id, image id, question, `confidence|!+answer&&..`, objects, image                    |
| classification  | image, number of the label, label                                                    |
| caption         | id, image id, caption, nothing, image                                                |
| nli             | first text, second text, 0 (neutral), 1 (entailment) or 2 (contradiction)            |
| summary         | document, summary                                                                    |
| trial           | id, patient's note, criteria, 0 (not relevant), 1 (excluded) or 2 (eligible)         |
| vision_language | id, image, caption, question, answers or x0,y0,x1,y1, objects, data set, kind of row |
| text            | id, text                                                                             |
| image           | id, image, its codes                                                                 |
| detection       | id, image, `x0,y0,x1,y1,number,label&&..`                                            |

Empty lines are no rows. Images are base64; both alphabets occur in published files. Several answers or objects stand
between `&&`.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.boxes import read_box
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, ImageBytes, Row, make_row, spaces
from biomedgpt_jax.data.sets.trec_trials import CLASSES, judged_row
from biomedgpt_jax.data.sets.wording import caption_row, closed, free, summary_row

CONFIDENCE = "|!+"
AND = "&&"
NLI_WORDS = {"0": "maybe", "1": "yes", "2": "no"}
IMAGE_QUESTIONS = {
    "classification": "What does the image describe?",
    "image_codes": "what is the image in the middle part?",
    "detection": "what are the objects in the image?",
}
# Of the seed's file for TREC 2022 only the number of columns is known; this order is our guess.
TRIAL_ORDER = ("id", "note", "criteria", "judgement")
COMPLETE = "what is the complete text?"
MOST_SHOWN = 20  # characters of a word that a message shows
MakeRow = Callable[[Path, int, list[str]], Row]


def read_biomedgpt_tsv(path: Path, table: str, order: Sequence[str] = TRIAL_ORDER) -> Iterator[Row | BadRow]:
    """Rows of a file that is one of `TABLES`; `order`: of the columns of a trial file."""
    columns, make = TABLES[table]
    if sorted(order) != sorted(TRIAL_ORDER):
        raise DataError(f"order of the columns of a trial file: expected {', '.join(TRIAL_ORDER)}, found {order}")

    def row(number: int, line: str) -> Row:
        cells = line.split("\t")
        if len(cells) != columns:
            raise DataError(f"expected {columns} tab-separated columns of a {table} file, found {len(cells)}")
        if table == "trial":
            cells = [cells[order.index(name)] for name in TRIAL_ORDER]
        return make(path, number, cells)

    return rows_of(path.name, ((number, line) for number, line in numbered_lines(path) if line), row)


def _vqa(path: Path, row: int, cells: list[str]) -> Row:
    id, image_id, question, answers, objects, image = cells
    answer, confidence = _best_answer(answers)
    facts = {"objects": objects, "confidence": confidence, "image_name": image_id}
    closed_one = answer.lower() in ("yes", "no")
    meta = closed("vqa", ("yes", "no"), **facts) if closed_one else free("vqa", **facts)
    return _row(path, row, id, [_image(image, image_id)], spaces(question), answer, meta)


def _classification(path: Path, row: int, cells: list[str]) -> Row:
    image, number, label = cells
    if not number.strip().isdecimal():
        raise DataError(f"number of the label: expected 0, 1, .., found {_shown(number)}")
    meta = {"task": "classification", "answer_type": "closed", "label": int(number)}
    picture = _image(image, f"{path.stem}-{row}")
    return _row(path, row, str(row), [picture], IMAGE_QUESTIONS["classification"], spaces(label), meta)


def _caption(path: Path, row: int, cells: list[str]) -> Row:
    id, image_id, caption, _, image = cells
    picture = _image(image, image_id)
    return caption_row(path.name, row, f"{path.stem}-{id}", picture, spaces(caption), image_name=image_id)


def _nli(path: Path, row: int, cells: list[str]) -> Row:
    first, second, label = map(spaces, cells)
    if label not in NLI_WORDS:
        raise DataError(f"label: expected one of {', '.join(NLI_WORDS)}, found {_shown(label)}")
    if not first or not second:
        raise DataError("one of the two texts is empty")
    meta = closed("nli", list(NLI_WORDS.values()), texts=[first, second])
    question = f"{first}\nDoes this imply: {second}"
    return _row(path, row, str(row), [], question, NLI_WORDS[label], meta)


def _summary(path: Path, row: int, cells: list[str]) -> Row:
    document, summary = map(spaces, cells)
    return summary_row(path.name, row, f"{path.stem}-{row}", document, summary, "this text")


def _trial(path: Path, row: int, cells: list[str]) -> Row:
    id, note, criteria, judgement = map(spaces, cells)
    if judgement not in CLASSES:
        raise DataError(
            f"judgement: expected one of {', '.join(CLASSES)}, found {_shown(judgement)}; the order of the columns was "
            f"never published: name it, if it is another than {', '.join(TRIAL_ORDER)}"
        )
    if not note or not criteria:
        raise DataError("one of the two texts is empty")
    return judged_row(path.name, row, f"{path.stem}-{id or row}", note, criteria, judgement)


def _vision_language(path: Path, row: int, cells: list[str]) -> Row:
    id, image, caption, question, answers, objects, source, kind = cells
    picture = _image(image, f"{path.stem}-{id}")
    facts: dict[str, Any] = {"objects": [spaces(name) for name in objects.split(AND) if name.strip()], "source": source}
    if kind == "caption":
        return caption_row(path.name, row, f"{path.stem}-{id}", picture, spaces(caption), **facts)
    if kind == "qa":
        answer, confidence = _best_answer(answers)
        return _row(path, row, id, [picture], spaces(question), answer, free("vqa", confidence=confidence, **facts))
    if kind == "visual_grounding":
        box = answers.split(",")
        read_box(box)
        meta = free("grounding", box=[float(value) for value in box], **facts)
        return _row(path, row, id, [picture], "what does the region describe?", spaces(caption), meta)
    raise DataError(f"kind of row: expected caption, qa or visual_grounding, found {_shown(kind)}")


def _text(path: Path, row: int, cells: list[str]) -> Row:
    return _row(path, row, cells[0], [], COMPLETE, spaces(cells[1]), free("text"))


def _codes(path: Path, row: int, cells: list[str]) -> Row:
    id, image, codes = cells
    if not all(code.isdecimal() for code in codes.split()):
        raise DataError("codes: expected numbers between spaces")
    picture = _image(image, f"{path.stem}-{id}")
    return _row(path, row, id, [picture], IMAGE_QUESTIONS["image_codes"], spaces(codes), free("image_codes"))


def _detection(path: Path, row: int, cells: list[str]) -> Row:
    id, image, objects = cells
    boxes = []
    for entry in objects.split(AND):
        values = entry.split(",", 5)
        if len(values) != 6 or not values[5].strip():
            raise DataError(f"an object: expected x0,y0,x1,y1,number,label, found {_shown(entry)}")
        read_box(values[:4])
        boxes.append([*map(float, values[:4]), spaces(values[5])])
    labels = ", ".join(str(box[4]) for box in boxes)
    picture = _image(image, f"{path.stem}-{id}")
    meta = free("detection", boxes=boxes)
    return _row(path, row, id, [picture], IMAGE_QUESTIONS["detection"], labels, meta)


# Number of columns, and what reads them.
TABLES: Mapping[str, tuple[int, MakeRow]] = {
    "vqa": (6, _vqa),
    "classification": (3, _classification),
    "caption": (5, _caption),
    "nli": (3, _nli),
    "summary": (2, _summary),
    "trial": (4, _trial),
    "vision_language": (8, _vision_language),
    "text": (2, _text),
    "image": (3, _codes),
    "detection": (3, _detection),
}


def _shown(cell: str) -> str:
    """A cell for a message: in a file of another layout it may be what was written of a patient, which stays out."""
    word = cell.strip()
    return repr(word) if len(word) <= MOST_SHOWN and " " not in word else f"a text of {len(cell)} characters"


def _row(
    path: Path, row: int, id: str, images: list[ImageBytes], question: str, answer: str, meta: dict[str, Any]
) -> Row:
    turns = [(question, answer)]
    return make_row(path.name, row, id=f"{path.stem}-{id}", images=images, turns=turns, meta=meta)


def _image(cell: str, name: str) -> ImageBytes:
    try:
        data = base64.b64decode(cell.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError) as reason:
        raise DataError(f"image column is not base64 ({reason})") from reason
    if not data:
        raise DataError("image column is empty")
    return ImageBytes(data, name)


def _best_answer(cell: str) -> tuple[str, float]:
    """The most confident answer and its confidence."""
    best, confidence = "", float("-inf")
    for part in cell.split(AND):
        number, mark, answer = part.partition(CONFIDENCE)
        try:
            value = float(number)
        except ValueError:
            mark = ""
        if not mark:
            raise DataError(f"answer column: expected confidence{CONFIDENCE}answer")
        if value > confidence:
            best, confidence = spaces(answer), value
    if not 0 < confidence < float("inf"):
        raise DataError(f"answer column: the confidence {confidence:g} is no number above 0")
    return best, confidence
