"""Many questions, answered in batches: one JSON row out for each row in, whatever is wrong with it."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, files_in, json_rows
from biomedgpt_jax.data.rows import BadRow, ImageRef, check_text
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.verbs.assistant import Assistant, End, Manner, Prompt, Request
from biomedgpt_jax.verbs.progress import Advance

MOST_NAMED = 20  # bad rows in a message; all are in the output
_LIKE_IMAGES = (
    "image",
    "img",
    "picture",
)  # other tools' keys, of which the question would be asked without its picture


@dataclass(frozen=True)
class Asked:
    id: str
    question: str
    images: tuple[ImageRef, ...]


def read_questions(path: Path) -> list[Asked | BadRow]:
    """Rows {"id", "images": [...], "question"} of a JSONL file or JSON list; images lie beside or below it.

    `id` may be absent (the number of the row), and `images` (text alone).

    Raises:
        DataError: there is no such file, it is no JSON at all, or holds no row.
    """
    find_image, rows, seen = files_in(path.parent), list[Asked | BadRow](), set[str]()
    for number, entry in json_rows(path):
        if isinstance(entry, BadRow):
            rows.append(entry)
            continue
        try:
            asked = _asked(entry, number, find_image)
            if asked.id in seen:
                raise DataError(f"id {asked.id!r} stands in an earlier row too")
        except DataError as reason:
            rows.append(BadRow(path.name, number, str(reason)))
        else:
            seen.add(asked.id)
            rows.append(asked)
    if not rows:
        raise DataError(f'{path} holds no row; expected {{"id", "images", "question"}} on each line')
    return rows


def answer_rows(
    assistant: Assistant, rows: Sequence[Asked | BadRow], manner: Manner, advance: Advance
) -> Iterator[dict[str, Any]]:
    """For each row, in order, a JSON object with `answer` and `truncated`, or with `error`."""
    for first in range(0, len(rows), assistant.rows):
        part = rows[first : first + assistant.rows]
        prompts = [_prompt(assistant, row, replace(manner, seeds=(manner.seeds[0], first + n)))
                   for n, row in enumerate(part)]  # fmt: skip
        said = iter(assistant.answer([prompt for prompt in prompts if isinstance(prompt, Prompt)]))
        for row, prompt in zip(part, prompts, strict=True):
            if isinstance(prompt, Prompt):
                answer = next(said)
                yield {**_facts(row), "answer": answer.text, "truncated": answer.end is End.LENGTH}
            else:
                yield {**_facts(row), "error": prompt}
        advance("answer", min(first + assistant.rows, len(rows)), len(rows))


def write_rows(rows: Iterator[dict[str, Any]], total: int, out: Path | None) -> None:
    """To a file, which appears when it is complete, or to standard output.

    Raises:
        RunError: some rows have an error; it names them when all others are written. Ctrl-C came; what was written
            stays.
    """
    bad: list[str] = []
    count = 0
    unfinished = out and out.with_name(out.name + ".unfinished")
    if unfinished:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
    file = unfinished.open("w", encoding="utf-8") if unfinished else sys.stdout
    try:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            count += 1
            if "error" in row:
                bad.append(f"{row.get('id') or 'row {row}'.format(**row)}: {row['error']}")
    except KeyboardInterrupt:
        kept = f"{count} of {total} rows are {f'in {unfinished}' if unfinished else 'above'}"
        raise RunError(f"interrupted: {kept}, the others were not answered.") from None
    finally:
        if unfinished:
            file.close()
    if out and unfinished:
        unfinished.replace(out)
    if bad:
        more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        raise RunError(
            f"{len(bad)} of {count} questions were not answered{more and ', the first'}: "
            f"{'; '.join(bad[:MOST_NAMED])}{more}. The others were."
        )


def _asked(entry: dict[str, Any], row: int, find_image: ImageFinder) -> Asked:
    name, question, images = str(entry.get("id", row)), entry.get("question"), entry.get("images", [])
    check_text(question, "question")
    if not str(question).strip():
        raise DataError("question is empty")
    if astray := [key for key in entry if key != "images" and key.lower().startswith(_LIKE_IMAGES)]:
        raise DataError(f"pictures are named in `images`, a list of paths; found `{astray[0]}`")
    if not isinstance(images, list):
        raise DataError(f"images: expected a list of paths, found {type(images).__name__}")
    return Asked(name, str(question), tuple(find_image(image) for image in images))


def _prompt(assistant: Assistant, row: Asked | BadRow, manner: Manner) -> Prompt | str:
    """The prompt, or what is wrong with the row."""
    if isinstance(row, BadRow):
        return row.reason
    try:
        return assistant.prompt(Request(row.id, (Turn(row.question, ""),), row.images, manner))
    except (DataError, RunError, OSError) as error:
        return str(error)


def _facts(row: Asked | BadRow) -> dict[str, Any]:
    if isinstance(row, BadRow):
        return {"row": row.row}
    return {"id": row.id, "images": [image.name for image in row.images], "question": row.question}
