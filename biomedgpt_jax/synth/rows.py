"""From judged answers to data: rows with their provenance, without duplicates, their images, and a prepared folder."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.layouts import llava_files, own_dataset
from biomedgpt_jax.data.lint.leaks import PATIENT
from biomedgpt_jax.data.lint.material import plain
from biomedgpt_jax.data.lint.overlap import covered, runs, seen_earlier
from biomedgpt_jax.data.manifest import Manifest
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.spec import Access
from biomedgpt_jax.synth.asks import Task
from biomedgpt_jax.synth.checks import Fault
from biomedgpt_jax.synth.journal import Reply
from biomedgpt_jax.synth.outcomes import Accepted, Judge, Open, Rejected, Waiting

ROWS, IMAGES, PREPARED, REJECTS = "rows", "images", "prepared", "rejects.jsonl"
TASK = "instruction"
# Facts about the image that its new rows keep: lint and the builder of mixtures look for them.
KEPT = ("modality", "licence", *PATIENT)
_SUFFIX = {b"\x89PN": ".png", b"\xff\xd8\xff": ".jpg"}


@dataclass
class Tally:
    """How many tasks ended how; `rejected` and `again` count faults, of tasks and of tries that were not the last."""

    accepted: int = 0
    duplicates: int = 0
    open: int = 0
    waiting: int = 0
    refused: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Made:
    task: Task
    good: Accepted


def collect(tasks: Iterable[Task], judge: Judge, out: Path) -> tuple[list[dict[str, Any]], Tally]:
    """The LLaVA-style rows of all good answers, in the order of the tasks, with their images under `out/rows.new`; all
    others go to rejects.jsonl.
    """
    tally, made = Tally(), []
    part = out / f"{REJECTS}.new"
    with part.open("w", encoding="utf-8") as file:
        for task in tasks:
            outcome = judge.look(task)
            if isinstance(outcome, Accepted):
                made.append(_Made(task, outcome))
                tally.again.update(fault.code for fault in outcome.faults)
            elif isinstance(outcome, Rejected):
                tally.refused += 1
                tally.rejected.update({fault.code for fault in outcome.faults})
                file.write(_reject(task, outcome.faults, outcome.texts))
            else:
                tally.open += isinstance(outcome, Open)
                tally.waiting += isinstance(outcome, Waiting)
        kept = []
        for each, first in zip(made, _duplicates(made), strict=True):
            if first is None:
                kept.append(each)
                continue
            tally.duplicates += 1
            file.write(_reject(each.task, (Fault("duplicate", (made[first].task.id,)),), (each.good.reply.text,)))
    part.replace(out / REJECTS)
    tally.accepted = len(kept)
    folder = out / f"{ROWS}.new"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / IMAGES).mkdir(parents=True)
    return [_row(each, folder / IMAGES) for each in kept], tally


def write_prepared(
    rows: list[dict[str, Any]], sources: Mapping[str, Manifest], out: Path, name: str, split: str, command: str
) -> Manifest:
    """Writes rows/SPLIT.jsonl and the prepared folder made of it; what stood there is replaced when both are whole."""
    folder = out / f"{ROWS}.new"
    file = folder / f"{split}.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        lines.flush()
        os.fsync(lines.fileno())
    made = out / f"{PREPARED}.new"
    shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(made.with_name(f"{made.name}.partial"), ignore_errors=True)
    titles = "; ".join(each.title for each in sources.values())
    spec = own_dataset(
        name,
        llava_files({split: file.name}, IMAGES),
        title=f"Instructions written by language models about: {titles}",
        licence="; ".join(dict.fromkeys(each.licence for each in sources.values())),
        source="; ".join(dict.fromkeys(each.source for each in sources.values())),
    )
    access = Access(max((each.access for each in sources.values()), key=_strictness))
    manifest = prepare_dataset(replace(spec, access=access, task=TASK), made, source_dir=folder, command=command)
    for new, kind in ((folder, ROWS), (made, PREPARED)):
        shutil.rmtree(out / kind, ignore_errors=True)
        new.rename(out / kind)
    return manifest


def _strictness(access: str) -> int:
    """What is made of several sources is bound by the strictest."""
    order = (Access.OPEN, Access.LOCAL, Access.REGISTRATION, Access.RESEARCH, Access.CREDENTIALED)
    return [each.value for each in order].index(access)


def _duplicates(made: list[_Made]) -> Iterator[int | None]:
    """Of each, the number of the first that shows the same images and says the same, or None.

    Of the same kind, most runs of eight words in its answers are enough.
    """
    exact: dict[tuple[Any, ...], int] = {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, each in enumerate(made):
        groups.setdefault((_images(each.task), each.task.prompt.kind), []).append(number)
    near: dict[int, int] = {}
    for numbers in groups.values():
        texts = ["\n".join(answer for _, answer in made[number].good.turns) for number in numbers]
        hashes, starts = runs(texts)
        again = covered(seen_earlier(hashes, starts), starts) if len(numbers) > 1 else []
        near |= {number: numbers[0] for number, seen in zip(numbers, again, strict=False) if seen}
    for number, each in enumerate(made):
        said = (_images(each.task), *((plain(question), plain(answer)) for question, answer in each.good.turns))
        first = exact.setdefault(said, number)
        yield first if first != number else near.get(number)


def _images(task: Task) -> tuple[Any, ...]:
    source = task.source
    if len(source.sample.images) == 1 and "image_sha256" in source.sample.meta:
        return (source.sample.meta["image_sha256"],)
    return tuple(hashlib.sha256(image).hexdigest() for image in source.images())


def _row(made: _Made, folder: Path) -> dict[str, Any]:
    task, source = made.task, made.task.source
    names = [_store(image, folder) for image in source.images()]
    said = [
        {"from": speaker, "value": text}
        for turn in made.good.turns
        for speaker, text in zip(("human", "gpt"), turn, strict=True)
    ]
    kept = {key: value for key, value in source.sample.meta.items() if key.lower() in KEPT and _plain(value)}
    origin = source.split.manifest.name
    return {
        "id": f"{origin}-{task.id}",
        "image": names,
        "conversations": said,
        **kept,
        "task": TASK,
        "answer_type": "open",
        "synth_kind": task.prompt.kind,
        "language": task.settings.form.language,
        "source_data": f"{origin}:{source.split.split}",
        "source_id": source.id,
        **_provenance(task, made.good),
    }


def _provenance(task: Task, good: Accepted) -> dict[str, Any]:
    reply: Reply = good.reply
    return {
        "synth_model": reply.model,
        "synth_model_asked": task.settings.model,
        "synth_host": reply.host,
        "synth_prompt": task.prompt.name,
        "synth_prompt_sha256": task.prompt.sha256,
        "synth_request": reply.request_id,
        "synth_key": task.key,
        "synth_try": good.number,
        "synth_time": reply.at,
        "synth_input_tokens": reply.input_tokens,
        "synth_output_tokens": reply.output_tokens,
    }


def _store(image: bytes, folder: Path) -> str:
    name = hashlib.sha256(image).hexdigest()[:32] + _SUFFIX.get(image[:3], ".img")
    if not (folder / name).exists():
        (folder / name).write_bytes(image)
    return name


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _reject(task: Task, faults: Iterable[Fault], texts: tuple[str, ...]) -> str:
    told = [{"code": fault.code, "found": list(fault.found)} for fault in faults]
    entry = {"id": task.id, "key": task.key, "prompt": task.prompt.name, "faults": told, "answers": list(texts)}
    return json.dumps(entry, ensure_ascii=False) + "\n"
