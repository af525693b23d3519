"""Raw files to rows: LLaVA-style JSON and JSONL, and TSV. Every row comes out as a Row or as a BadRow with
its reason.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.limits import MAX_LINE_BYTES
from biomedgpt_jax.data.rows import BadRow, ImageMember, ImageRef, Row, check_text, image_file, inside, make_row

# Some published files misspell the key.
CONVERSATION_KEYS = ("conversations", "conversatons")
KEPT_TYPES = (str, int, float, bool)
# The first bytes of files that hold others.
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\xfd7zXZ": "xz"}
ImageFinder = Callable[[str], ImageRef]


def files_in(root: Path) -> ImageFinder:
    """Finds images by their path relative to `root`; a path that leaves it is refused."""
    return lambda name: image_file(root, name)


def zips_in(archives: Iterable[Path], depth: int) -> ImageFinder:
    """Finds images inside zip archives by the last `depth` parts of their path. Raises DataError for a bad
    archive.
    """
    index: dict[tuple[str, ...], tuple[Path, str]] = {}
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as packed:
                members = packed.namelist()
        except (OSError, zipfile.BadZipFile) as reason:
            raise DataError(f"{archive}: not a whole zip archive ({reason}); fetch it again") from reason
        for member in members:
            index.setdefault(PurePosixPath(member).parts[-depth:], (archive, member))

    def find(name: str) -> ImageRef:
        inside(Path(), name)
        found = index.get(PurePosixPath(name).parts[-depth:])
        if found is None:
            raise DataError(f"{name}: not in the image archives")
        return ImageMember(*found, name)

    return find


def images_beside(unpacked: Path, root: Path, archives: str, depth: int) -> ImageFinder:
    """Images relative to `root` where the folder `unpacked` exists, else in the archives beside it."""
    if unpacked.is_dir():
        return files_in(root)
    found = sorted(unpacked.parent.glob(archives))
    if not found:
        raise DataError(f"{unpacked.parent}: neither a folder {unpacked.name!r} nor {archives}")
    return zips_in(found, depth)


def read_llava(path: Path, find_image: ImageFinder) -> Iterator[Row | BadRow]:
    """LLaVA-style rows {id, image, conversations: [{from, value}, ...]} from a JSON list or JSONL file.

    `image` is a string, a list of strings, or absent (text only). Messages before the first human one are
    skipped; then human and gpt must alternate. Other plain fields go to `meta`, and lists of strings (`choices`).
    """
    return rows_of(path.name, json_rows(path), lambda row, entry: llava_row(path, row, entry, find_image))


def llava_row(path: Path, row: int, entry: dict[str, Any], find_image: ImageFinder) -> Row:
    """One row; raises DataError with the reason."""
    names = entry.get("image")
    names = [] if names is None else [names] if isinstance(names, str) else names
    if not isinstance(names, list):
        raise DataError(f"image: expected a string or a list of strings, found {type(names).__name__}")
    key = next((key for key in CONVERSATION_KEYS if key in entry), None)
    if key is None:
        raise DataError(f"no key 'conversations'; found {sorted(entry)}")
    meta = {
        name: value
        for name, value in entry.items()
        if name not in ("id", "image") and (isinstance(value, KEPT_TYPES) or _is_texts(value))
    }
    if isinstance(entry.get("answer_type"), str):
        meta["answer_type"] = entry["answer_type"].strip().lower()
    return make_row(
        path.name,
        row,
        id=str(entry.get("id", f"{path.stem}-{row}")),
        images=[find_image(name) for name in names],
        turns=conversation_turns(entry[key]),
        meta=meta,
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def conversation_turns(messages: Any) -> list[tuple[str, str]]:
    """LLaVA-style messages [{from, value}, ...] -> (question, answer) pairs; DataError when they do not
    alternate.
    """
    if not isinstance(messages, list):
        raise DataError(f"conversations: expected a list, found {type(messages).__name__}")
    said = []
    for message in messages:
        if not isinstance(message, dict) or "from" not in message or "value" not in message:
            raise DataError("conversations: every message needs 'from' and 'value'")
        check_text(message["value"], "value")
        if said or message["from"] == "human":
            said.append((message["from"], message["value"]))
    for number, (speaker, _) in enumerate(said):
        expected = ("human", "gpt")[number % 2]
        if speaker != expected:
            raise DataError(f"message {number + 1} is from {speaker!r}, expected {expected!r}")
    if not said:
        raise DataError("conversations: no message from 'human'")
    if len(said) % 2:
        raise DataError("the last question has no answer")
    return [(said[i][1], said[i + 1][1]) for i in range(0, len(said), 2)]


def rows_of(file: str, entries: Iterable[tuple[int, Any]], make: Callable[[int, Any], Row]) -> Iterator[Row | BadRow]:
    """Calls `make(row, entry)` for each numbered entry; a DataError becomes a BadRow. A BadRow entry
    passes through.
    """
    for row, entry in entries:
        if isinstance(entry, BadRow):
            yield entry
            continue
        try:
            yield make(row, entry)
        except DataError as reason:
            yield BadRow(file, row, str(reason))
        except KeyError as reason:
            yield BadRow(file, row, f"no field {reason}")
        except (TypeError, ValueError, AttributeError) as reason:
            # Without its message, which may quote the row: the text of patients stays out of logs.
            yield BadRow(file, row, f"unexpected layout ({type(reason).__name__})")


def json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(row from 1, entry) of a JSON list, or of JSONL (by the suffix .jsonl). A broken JSONL line is a BadRow
    entry.

    Raises DataError when the file is missing, or a JSON list is broken as a whole.
    """
    if path.suffix == ".jsonl":
        yield from _jsonl_rows(path)
        return
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as reason:
        raise DataError(f"{path} does not exist") from reason
    except (ValueError, UnicodeDecodeError, RecursionError) as reason:
        raise DataError(f"{path}: not valid JSON: {_json_fault(reason)}") from reason
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of rows, found {type(content).__name__}")
    for row, entry in enumerate(content, 1):
        yield row, entry if isinstance(entry, dict) else _not_a_row(path, row, entry)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    for row, line in numbered_lines(path):
        if isinstance(line, BadRow):
            yield row, line
        elif line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as reason:
                yield row, BadRow(path.name, row, f"not valid JSON: {_json_fault(reason)}")
                continue
            yield row, entry if isinstance(entry, dict) else _not_a_row(path, row, entry)


def _json_fault(reason: Exception) -> str:
    return "nested too deeply" if isinstance(reason, RecursionError) else str(reason)


def _not_a_row(path: Path, row: int, entry: Any) -> BadRow:
    return BadRow(path.name, row, f"expected an object, found {type(entry).__name__}")


def numbered_lines(path: Path) -> Iterator[tuple[int, str | BadRow]]:
    """(line number from 1, text without its end) of a UTF-8 file; a line that is not UTF-8, or longer than
    MAX_LINE_BYTES, is a BadRow. DataError for no file, and for one that must be unpacked first.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as reason:
        raise DataError(f"{path} does not exist") from reason
    with file:
        begins = file.peek(max(map(len, PACKED)))
        for mark, packing in PACKED.items():
            if begins.startswith(mark):
                raise DataError(f"{path} is packed ({packing}): unpack it first, and name the file that comes out")
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(file)
                yield number, BadRow(path.name, number, f"a line of more than {MAX_LINE_BYTES} bytes")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as reason:
                yield number, BadRow(path.name, number, f"not UTF-8: {reason.reason} at byte {reason.start}")
                continue
            yield number, text.rstrip("\r\n")


def _skip_line(file: BinaryIO) -> None:
    """Reads on to the end of the present line."""
    while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def find_one(folder: Path, name: str) -> Path:
    """The one file of this name in the folder or below; DataError says what was found instead."""
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        listing = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        what = "no" if not found else f"{len(found)} times"
        raise DataError(f"{folder}: expected one file {name!r}, found {what} such file; the folder holds: {listing}")
    return found[0]
