"""Lists the data sets that are built in: task, modality, sizes, licence, access, source, and what is on this machine.

    biomedgpt data
    biomedgpt data --task=vqa --json
    biomedgpt data --name=mednli

With --name it tells all that is known of one set, and how to get it; --json has this of all sets. Prepared folders and
raw files are looked for as NAME and NAME.raw in --root, and as NAME in $BIOMEDGPT_DATA. --markdown prints the page
docs/datasets.md.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from absl import flags
from rich.table import Table

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.datasets import ALL, DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.manifest import MANIFEST, read_manifest
from biomedgpt_jax.data.prepare import instructions
from biomedgpt_jax.data.spec import DatasetSpec
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console

WIDTH = 180  # of the table in a file or a pipe
HEADER = """# Data sets

Made by `biomedgpt data --markdown`; `biomedgpt data` also says what is on your machine.

`biomedgpt prepare --config=configs/data/dataset.py:name=NAME --out=data/NAME` prepares one, from the network where
its files are open, or with `--config.source=FOLDER` from files that lie in a folder. Another number of samples than
stands here is an error that shows both; `--config.allow_other_sizes=True` goes on. Splits called ours are drawn by a
hash of the patient or picture, the same on every machine. Files of the Hugging Face hub and of Zenodo are held against
their published checksums; an interrupted download goes on where it stopped.

Credentialed sets are read from a folder that you have; what is prepared from them says so in its manifest. Addresses of
stores elsewhere are refused as the place to write, TFDS needs a `data_dir`, and a model that learned from one is never
uploaded (`biomedgpt export --push-to-hub`), also after it was exported and imported again.

The column `of the 23` says whether a set is one of the 23 of BiomedGPT's scaled study, whose list is not published.
The column `checked` says how far the reader was held against the real files.
"""


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("root", "data", "Folder of prepared data sets.", flag_values=values)
    flags.DEFINE_string("task", None, "Only data sets whose task holds this text.", flag_values=values)
    flags.DEFINE_string("name", None, "Tell all about one data set.", flag_values=values)
    flags.DEFINE_boolean("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_boolean("markdown", False, "Print the page of the documentation.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    specs = _chosen(values.name, values.task)
    if values.markdown:
        print(page(specs), end="")
    elif values.json:
        print(json.dumps([facts(spec, Path(values.root)) for spec in specs], indent=1, ensure_ascii=False))
    elif values.name:
        _tell(specs[0], Path(values.root))
    else:
        console = make_console()
        console.width = console.width if console.is_terminal else WIDTH
        console.print(_table(specs, Path(values.root)))


def facts(spec: DatasetSpec, root: Path) -> dict[str, Any]:
    """The row of a data set, without its functions, and what is there of it."""
    return {
        "name": spec.name,
        "title": spec.title,
        "task": spec.task,
        "protocol": spec.protocol,
        "modality": spec.modality,
        "samples": dict(spec.published),
        "total": spec.total,
        "splits": spec.splits,
        "licence": spec.licence,
        "access": spec.access.value,
        "source": spec.source,
        "citation": spec.citation,
        "member": spec.member.value,
        "checked": spec.checked,
        "status": status(spec.name, root),
    }


def status(name: str, root: Path) -> str:
    """What is on this machine: a prepared folder, unfinished work, raw files, or nothing."""
    folder = root / name
    if (folder / MANIFEST).is_file():
        try:
            manifest = read_manifest(folder)
        except DataError:
            return f"damaged: {folder}"
        return f"prepared, {sum(split.samples for split in manifest.splits.values())} samples: {folder}"
    if (root / f"{name}.partial").is_dir():
        return f"unfinished: {root / name}.partial"
    elsewhere = os.environ.get("BIOMEDGPT_DATA", "")
    for raw in (root / f"{name}.raw", *([Path(elsewhere) / name] if elsewhere else [])):
        if raw.is_dir() and any(raw.iterdir()):
            return f"raw files: {raw}"
    return "not here"


def page(specs: Iterable[DatasetSpec]) -> str:
    """docs/datasets.md: what holds on every machine."""
    names = ("name", "task", "modality", "samples", "splits", "licence", "access", "of the 23", "checked")
    lines = [HEADER, _line(names), _line(["---"] * len(names))]
    for spec in specs:
        title = f"[{spec.name}]({spec.source})" if "://" in spec.source else spec.name
        known = (spec.task, spec.modality, _sizes(spec), spec.splits, spec.licence, spec.access.value)
        lines.append(_line((title, *known, spec.member.value, spec.checked)))
    by_hand = "\n\n".join(instructions(spec) for spec in specs if spec.steps)
    return "\n".join([*lines, "", "## Sets that a person must get", "", "```text", by_hand, "```", ""])


def _chosen(name: str | None, task: str | None) -> tuple[DatasetSpec, ...]:
    if name is not None:
        if name not in DATASETS:
            raise UsageError(
                f"No data set {name!r}.{command_line.suggest(name, DATASETS)} `biomedgpt data` lists them."
            )
        return (DATASETS[name],)
    found = tuple(spec for spec in ALL if task is None or task.lower() in spec.task.lower())
    if not found:
        tasks = ", ".join(sorted({spec.task for spec in ALL}))
        raise UsageError(f"No data set whose task holds {task!r}; tasks: {tasks}.")
    return found


def _table(specs: Iterable[DatasetSpec], root: Path) -> Table:
    table = Table(caption="samples: train / validation / test")
    for name in ("name", "task", "modality", "samples", "licence", "access", "where", "here"):
        table.add_column(name, overflow="fold", no_wrap=name in ("name", "samples"))
    for spec in specs:
        sizes = (
            " / ".join(f"{count:,}" for count in spec.published.values()) or (spec.total and f"{spec.total:,}") or "?"
        )
        where = urlsplit(spec.source).netloc.removeprefix("www.") or spec.source
        known = (spec.name, spec.task, spec.modality, sizes, spec.licence.split(" (")[0], spec.access.value, where)
        table.add_row(*known, status(spec.name, root).split(":")[0])
    return table


def _tell(spec: DatasetSpec, root: Path) -> None:
    console = make_console()
    table = Table(show_header=False, title=spec.title)
    for name, value in facts(spec, root).items():
        if name not in ("title", "total"):
            table.add_row(name, _sizes(spec) if name == "samples" else str(value))
    console.print(table)
    if spec.steps:
        console.print(instructions(spec), markup=False, highlight=False)
    else:
        config = f"configs/data/dataset.py:name={spec.name}"
        console.print(f"biomedgpt prepare --config={config} --out=data/{spec.name}", markup=False, soft_wrap=True)


def _sizes(spec: DatasetSpec) -> str:
    sizes = [f"{name} {count:,}" for name, count in spec.published.items()]
    total = [f"{spec.total:,} in all"] if spec.total is not None else []
    return ", ".join(sizes + total) or "not published"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
