"""Samples that a training leaves out where it may: counted and named in its log, listed with reasons in its folder."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.data.mixture import Mixture

FILE = "left_out.jsonl"
SHOWN = 3  # names in the log
NOT_PLANNED = "no row or bucket holds it, or its answer is not in the closed list"


def left_out(mixture: Mixture[Any], skipped: Sequence[int], workdir: Path) -> str:
    """Writes FILE, where there is anything to tell, and returns the count with the first names.

    Args:
        skipped: numbers of encoded samples that no batch has.
    """
    found = list(dict.fromkeys(_found(mixture, skipped)))
    file = workdir / FILE
    if is_leader():
        file.unlink(missing_ok=True)
        if found:
            lines = [json.dumps({"sample": name, "reason": reason}, ensure_ascii=False) for name, reason in found]
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not found:
        return "left out: 0"
    more = ", ..." if len(found) > SHOWN else ""
    names = ", ".join(name.rsplit("/", 1)[-1] for name, _ in found[:SHOWN])
    return f"left out: {len(found)} ({names}{more}; reasons: {FILE})"


def _found(mixture: Mixture[Any], skipped: Sequence[int]) -> Iterator[tuple[str, str]]:
    for part in mixture.parts:
        split = part.encoded.split
        for each in part.encoded.rejected:
            yield f"{split.name} {split[each.number].id}", each.reason
    for number in skipped:
        yield mixture.sample_id(number), NOT_PLANNED
