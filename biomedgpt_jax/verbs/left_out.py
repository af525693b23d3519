"""Samples that a training cannot use, or leaves out where it may: counted, and listed with reasons in its folder."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.data.encoded import named
from biomedgpt_jax.data.errors import DataError, UnusableSamples
from biomedgpt_jax.data.mixture import Mixture

FILE = "left_out.jsonl"
SHOWN = 3  # names in the log
NOT_PLANNED = "no row or bucket holds it, or its answer is not in the closed list"


@contextmanager
def all_listed(file: Path) -> Iterator[None]:
    """Where samples stop what is done inside, `file` names every one of them, and the error says so."""
    try:
        yield
    except UnusableSamples as error:
        _write(file, error.found)
        raise DataError(f"{error}. All are listed in {file}") from error


def left_out(mixture: Mixture[Any], skipped: Sequence[int], workdir: Path) -> str:
    """Writes FILE, where there is anything to tell, and returns the count with the first names.

    Args:
        skipped: numbers of encoded samples that no batch has.
    """
    found = list(dict.fromkeys(_found(mixture, skipped)))
    _write(workdir / FILE, found)
    if not found:
        return "left out: 0"
    more = ", ..." if len(found) > SHOWN else ""
    names = ", ".join(name.rsplit("/", 1)[-1] for name, _ in found[:SHOWN])
    return f"left out: {len(found)} ({names}{more}; reasons: {FILE})"


def _write(file: Path, found: Sequence[tuple[str, str]]) -> None:
    if not is_leader():
        return
    file.unlink(missing_ok=True)
    if found:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"sample": name, "reason": reason}, ensure_ascii=False) for name, reason in found]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _found(mixture: Mixture[Any], skipped: Sequence[int]) -> Iterator[tuple[str, str]]:
    for part in mixture.parts:
        yield from named(part.encoded.split, part.encoded.rejected)
    for number in skipped:
        yield mixture.sample_id(number), NOT_PLANNED
