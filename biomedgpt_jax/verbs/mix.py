"""Makes an instruction mixture of prepared data sets, without anything that evaluation sets hold.

    biomedgpt mix --out=data/mixture --config=configs/mixture.py:data=data/slake+data/meqsum,eval=data/vqa_rad

Every sample is asked in one of the wordings of its task (docs/instructions.md), chosen by seed and id; two wordings of
each task are never used. Writes a prepared folder with one split, train, that both families train on; mixture.json and
mixture.html say its size and balance, dropped.jsonl lists by id what was left out and why. The same seed gives the same
samples in the same order, byte for byte.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absl import flags
from rich.table import Table as RichTable
from rich.text import Text

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.instructions.reword import ALL
from biomedgpt_jax.data.manifest import Manifest, read_manifest
from biomedgpt_jax.data.mixing.balance import Balance, balance, known_modality
from biomedgpt_jax.data.mixing.plan import Plan, plan_mixture
from biomedgpt_jax.data.mixing.settings import MixSettings
from biomedgpt_jax.data.mixing.written import SPLIT, mixture_spec
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tokenizers import load_tokenizer
from biomedgpt_jax.data.writer import write_json
from biomedgpt_jax.report.content import DataFacts, RunPage, Table
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.progress import progress

EXAMPLE = "biomedgpt mix --out=data/mixture --config=configs/mixture.py:data=data/slake+data/meqsum,eval=data/vqa_rad"
KEYS = ("paths", "weights", "caps", "eval", "near_images")
REPORT, DROPPED, PAGE = "mixture.json", "dropped.jsonl", "mixture.html"


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    config = command_line.require_config(values, EXAMPLE, KEYS)
    out = Path(command_line.require(values, "out", EXAMPLE))
    if not config.paths:
        raise UsageError(f"config.paths is empty; name prepared data sets, for example {EXAMPLE}")
    settings, count = _settings(config), _counter(config)
    with progress() as advance:
        plan = plan_mixture(settings, advance)
        manifest = prepare_dataset(
            mixture_spec(plan, config.name),
            out,
            workers=config.workers,
            progress=lambda split, done, total: advance(f"write {split}", done, total),
            shard_rows=config.shard_rows,
            command=" ".join(sys.argv[1:]),
        )
        modalities = {part.name: known_modality(part.split.manifest.name) for part in plan.parts}
        found = balance(PreparedSplit(out, SPLIT), modalities, count)
    lines = (json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in plan.dropped)
    (out / DROPPED).write_text("".join(lines), encoding="utf-8")
    write_json(out / REPORT, _report(plan, found))
    tables = _tables(plan, found)
    write_page(_page(manifest, plan, found, tables), out / PAGE)
    _print(out, found, tables)


def _settings(config: Config) -> MixSettings:
    scored = []
    for path in config.eval.paths:
        has = read_manifest(Path(path)).splits
        splits = [split for split in config.eval.splits if split in has]
        if not splits:
            asked = " nor ".join(config.eval.splits)
            raise UsageError(f"config.eval.paths: {path} has no split {asked}; it has {', '.join(sorted(has))}.")
        scored += [(path, split) for split in splits]
    return MixSettings(
        taken=tuple((path, config.split) for path in config.paths),
        scored=tuple(scored),
        weights=tuple(map(float, config.weights)),
        caps=tuple(config.caps),
        samples=config.samples,
        seed=config.seed,
        near=config.near_images,
        threads=config.threads,
    )


def _counter(config: Config) -> Callable[[str], int] | None:
    if not config.tokenizer:
        return None
    tokenizer = load_tokenizer(config.tokenizer)
    return lambda text: len(tokenizer.encode(text))


def _sets(plan: Plan) -> list[dict[str, Any]]:
    """What became of each set's samples; those neither dropped nor taken were over its share or cap."""
    rows = []
    for n, part in enumerate(plan.parts):
        reasons = Counter(each.reason for each in plan.dropped if each.set == part.name)
        taken = sum(each.part == n for each in plan.chosen)
        left = len(part.samples) - reasons.total() - taken
        rows.append({"set": part.name, "samples": len(part.samples), "taken": taken, "over": left,
                     "dropped": dict(sorted(reasons.items()))})  # fmt: skip
    return rows


def _report(plan: Plan, found: Balance) -> dict[str, Any]:
    return {
        "size": {"samples": found.samples, "images": found.images, "tokens": found.tokens},
        "settings": asdict(plan.settings),
        "sets": _sets(plan),
        "kept_free_of": [part.name for part in plan.scored],
        "held_out_instructions": [each.name(number) for each in ALL for number in each.held_out],
        "balance": {name: value for name, value in asdict(found).items() if isinstance(value, dict)},
    }


def _tables(plan: Plan, found: Balance) -> list[Table]:
    sets = tuple(
        (row["set"], str(row["samples"]), str(row["taken"]), str(row["over"]), str(sum(row["dropped"].values())))
        for row in _sets(plan)
    )
    because = Counter(
        (each.set, each.reason, each.because if each.reason.startswith("test-") else "") for each in plan.dropped
    )
    dropped = tuple((*key, str(count)) for key, count in sorted(because.items()))
    tables = [
        Table("Data sets", ("set", "samples", "taken", "over its share or cap", "dropped"), sets),
        Table("Dropped", ("set", "why", "known from", "samples"), dropped),
    ]
    for title, column, counts in (
        ("Tasks", "task", found.tasks),
        ("Forms that are demanded", "form", found.forms),
        ("Modalities", "modality", found.modalities),
        ("Instructions", "wording", found.instructions),
    ):
        rows = tuple((name, str(count), _share(count, found.samples)) for name, count in counts.items())
        tables.append(Table(title, (column, "samples", "share"), rows))
    answers = tuple(
        (task, answer, str(count), _share(count, found.tasks[task]))
        for task, counts in found.answers.items()
        for answer, count in counts.items()
    )
    tables.append(Table("Most frequent answers to closed questions", ("task", "answer", "samples", "share"), answers))
    return [table for table in tables if table.rows]


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f}%"


def _size(found: Balance) -> str:
    tokens = "" if found.tokens is None else f", {found.tokens:,} tokens of text"
    return f"{found.samples:,} samples, {found.images:,} images{tokens}"


def _page(manifest: Manifest, plan: Plan, found: Balance, tables: list[Table]) -> RunPage:
    free = ", ".join(part.name for part in plan.scored) or "no evaluation set was named"
    return RunPage(
        title=manifest.title,
        model=f"{_size(found)}. Each sample is asked in one of the wordings of its task.",
        data=DataFacts(manifest.name, manifest.source, manifest.licence, f"{SPLIT} {_size(found)}"),
        protocol="",
        interval="",
        scores=(),
        samples=(),
        facts=(("seed", str(plan.settings.seed)), ("kept free of", free), ("fingerprint", manifest.fingerprint)),
        tables=tuple(tables),
    )


def _print(out: Path, found: Balance, tables: list[Table]) -> None:
    console = make_console()
    for table in tables[:5]:
        shown = RichTable(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
    console.print(f"{_size(found)}: {out}", markup=False)
    console.print(f"Page: {out / PAGE}; for other programs: {out / REPORT}; left out: {out / DROPPED}", markup=False)
