"""All prepared data sets put to one model, one after another; what is answered stays, so that it may break off.

In the folder of results each set has a folder of its own, and in it one for each protocol, with what `biomedgpt eval`
writes. `asked.json` says who was asked and how; the answers of a batch are kept in `unfinished` until all are there.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from biomedgpt_jax.core.errors import LostProcess, RunError, UsageError
from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.eval.compare import SCORES, Evaluation, load
from biomedgpt_jax.eval.journal import kept
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.eval.rescore import rescored
from biomedgpt_jax.eval.runner import write
from biomedgpt_jax.eval.summary import summarise
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.verbs.asked_model import AskedModel, open_model
from biomedgpt_jax.verbs.cluster import join_processes
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.exam import Exam
from biomedgpt_jax.verbs.page_content import evaluation_page
from biomedgpt_jax.verbs.progress import Advance, progress
from biomedgpt_jax.verbs.suite_page import Suite, scores_table, write_suite
from biomedgpt_jax.verbs.suite_plan import LeftOut, Planned, plan_suite

ASKED, UNFINISHED, PAGE = "asked.json", "unfinished", "page.html"
IDENTITY = ("model_hash", "dtype", "chat_template")  # of the facts about a model


def run_suite(values: flags.FlagValues, config: Config, out: Path) -> None:
    """Asks what is not answered yet and writes suite.md, suite.json, suite.html and suite.tex into `out`.

    Raises:
        UsageError: nothing to ask, or `out` holds answers of another model, other data or other settings. RunError: a
            set could not be asked; all others are in the table.
    """
    join_processes(values)
    plan = plan_suite(config)
    model = open_model(values, config)
    keys = [_key(planned, model, values, config) for planned in plan.asked]
    done = _begun(out, plan.asked, keys, redo=config.redo)
    console = make_console()
    for planned, answered in zip(plan.asked, done, strict=True):
        if answered:
            console.print(f"{planned.title}: answered before, by the same model in the same way", markup=False)
    failed: list[LeftOut] = []
    with progress() as advance:
        whole = _of_all(advance, [p.questions for p, answered in zip(plan.asked, done, strict=True) if not answered])
        for planned, answered in zip(plan.asked, done, strict=True):
            try:
                failed += _examine(planned, model, out, whole, answered=answered)
            except LostProcess:
                raise
            except (RunError, DataError) as error:
                if jax.process_count() > 1:
                    raise
                failed.append(LeftOut(planned.title, "", str(error)))
    if not is_leader():
        return
    results = [(planned, evaluation) for planned in plan.asked for evaluation in _results(out, planned)]
    suite = Suite(model.facts, tuple(results), plan.left_out, tuple(failed), plan.absent)
    write_suite(suite, out)
    console.print(scores_table(suite))
    console.print(f"Table: {out / 'suite.md'}, .json, .html, .tex", markup=False, soft_wrap=True)
    if failed:
        told = "; ".join(f"{each.name}: {each.why}" for each in failed)
        raise RunError(f"{len(failed)} of {len(plan.asked)} sets are not scored as asked for, the rest is. {told}")


def _key(planned: Planned, model: AskedModel, values: flags.FlagValues, config: Config) -> dict[str, Any]:
    """What answers depend on. How many rows are asked at once is left out: it decides nothing but speed."""
    said = {name: model.facts[name] for name in IDENTITY if name in model.facts}
    settings = config.to_dict()
    how = {name: settings[name] for name in ("pairs", "features", "instruct", "instruct_seed") if name in settings}
    called = {name: values[name].value for name in ("template", "geometry") if values[name].value}
    asked = {"max_new_tokens": planned.max_new_tokens, "limit": planned.limit, "data": list(planned.files)}
    return json.loads(json.dumps({**said, **how, **called, **asked}))


def _begun(out: Path, asked: Sequence[Planned], keys: Sequence[dict[str, Any]], *, redo: bool) -> list[bool]:
    """Which sets are answered; all processes are told what the first one finds."""
    done = np.zeros(len(asked), bool)
    if is_leader():
        found = [_found(out / planned.title, key) for planned, key in zip(asked, keys, strict=True)]
        changed = {planned.title: names for planned, names in zip(asked, found, strict=True) if names}
        if changed and not redo:
            title, names = next(iter(changed.items()))
            raise UsageError(
                f"{out / title} was answered otherwise ({', '.join(names)} differ; {len(changed)} sets in all). "
                "Write to another folder, or have such sets asked again with --config.redo=True, which deletes them."
            )
        for title in changed:
            shutil.rmtree(out / title)
        for number, (planned, key) in enumerate(zip(asked, keys, strict=True)):
            folder = out / planned.title
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(folder / ASKED, key)
            done[number] = any(_scored(folder))
    if jax.process_count() > 1:
        done = np.asarray(multihost_utils.broadcast_one_to_all(done))
    return done.tolist()


def _found(folder: Path, key: dict[str, Any]) -> list[str]:
    """Names of what differs from how a set was asked before; [] where it was not, or in the same way."""
    try:
        before = json.loads((folder / ASKED).read_text())
    except FileNotFoundError:
        return ["an unknown origin"] if folder.exists() and any(folder.iterdir()) else []
    except ValueError:
        return [ASKED]
    return [name for name in sorted({*before, *key}) if before.get(name) != key.get(name)]


def _examine(planned: Planned, model: AskedModel, out: Path, advance: Advance, *, answered: bool) -> list[LeftOut]:
    """Asks one set, if need be, and has its answers scored under every protocol; returns those that cannot."""
    folder, exam = out / planned.title, planned.exam()
    if not answered:
        first = planned.protocols[0]
        if jax.process_count() == 1:
            exam = replace(exam, remember=partial(kept, folder / UNFINISHED))
        model.ask(exam, first, planned.max_new_tokens, folder / _folder_name(first), advance)
    if not is_leader():
        return []
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    source = load(str(_scored(folder)[0]))
    failed = []
    for protocol in planned.protocols:
        place = folder / _folder_name(protocol)
        if not (place / SCORES).is_file():
            try:
                _rescore(source, exam, protocol, place)
            except RunError as error:
                failed.append(LeftOut(planned.title, protocol.id, str(error)))
                continue
        if not (place / PAGE).is_file():
            write_page(evaluation_page(load(str(place)), exam.split), place / PAGE)
    return failed


def _rescore(source: Evaluation, exam: Exam, protocol: Protocol, place: Path) -> None:
    answered = rescored(source, exam.questions, protocol)
    summary = summarise(protocol, answered, exam.train_questions, exam.train_source)
    write(str(place), summary, answered, {**source.scores["facts"], "rescored": Path(source.folder).name})


def _results(out: Path, planned: Planned) -> list[Evaluation]:
    folders = [out / planned.title / _folder_name(protocol) for protocol in planned.protocols]
    return [load(str(folder)) for folder in folders if (folder / SCORES).is_file()]


def _scored(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob(f"*/{SCORES}"))


def _folder_name(protocol: Protocol) -> str:
    return protocol.id.replace("/", "_")


def _of_all(advance: Advance, counts: Sequence[int]) -> Advance:
    """`advance` that also tells of all questions of the suite together."""
    total, names = sum(counts), dict[str, int]()

    def both(what: str, done: int, all_of_it: int | None) -> None:
        advance(what, done, all_of_it)
        names[what] = done
        advance("all sets", sum(names.values()), total)

    return both


def _write_json(file: Path, content: Any) -> None:
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(file)
