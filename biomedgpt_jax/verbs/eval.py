"""Scores a model on a prepared split under a named protocol, or compares two evaluations.

    biomedgpt eval --config=configs/eval.py:data=data/vqa_rad --model=runs/instruct --out=runs/instruct/eval/test
    biomedgpt eval --compare=runs/a/eval/test,runs/b/eval/test

Writes predictions.jsonl, scores.json and page.html; comparing refuses other protocols and other data.
"""

from pathlib import Path

import jax
from absl import flags
from rich.table import Table

from biomedgpt_jax.checkpoint.fingerprint import leaf_records, tree_hash
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.eval.compare import compare, load
from biomedgpt_jax.report.content import RunPage
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.report.table import summary_table
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.features import open_features
from biomedgpt_jax.verbs.loaded_model import define_model, load_model
from biomedgpt_jax.verbs.page_content import data_facts, describe, score_rows, shown_samples
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.scoring import scorers


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    define_model(values)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_list("compare", [], "Two folders of evaluations: A,B.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    if values.compare:
        _compare(values.compare)
        return
    example = "biomedgpt eval --config=configs/eval.py:data=data/vqa_rad --model=runs/small --out=runs/small/eval/test"
    config = command_line.require_config(values, example, ("data", "split", "train_split", "protocol"))
    folder = Path(command_line.require(values, "model", example))
    out = Path(command_line.require(values, "out", example))
    if not config.data:
        raise UsageError(f"config.data is empty; name prepared data, for example {example}")
    loaded = load_model(folder, values.step, config.dtype, template=values.template, geometry=values.geometry)
    features = None
    if config.features:
        asked = [PreparedSplit(config.data, config.split)]
        features = open_features(config.features, loaded.spec, loaded.params["tower"], config.dtype, asked)
    (scorer,) = scorers(
        loaded.spec,
        loaded.tokenizer,
        (config.data,),
        config.split,
        train_split=config.train_split,
        protocol=config.protocol,
        batch_rows=config.batch_rows,
        max_new_tokens=config.max_new_tokens,
        features=features,
    )
    with progress() as advance, jax.set_mesh(loaded.mesh):
        facts = {"model": loaded.name, "model_hash": tree_hash(leaf_records(loaded.params)), "dtype": config.dtype}
        scorer(loaded.model, loaded.params, out, facts, advance)
    evaluation = load(str(out))
    page = RunPage(
        title=f"Evaluation of {loaded.name}",
        model=describe(loaded.spec, loaded.model),
        data=data_facts(read_manifest(Path(config.data)), Path(config.data)),
        protocol=evaluation.scores["protocol"],
        interval=evaluation.scores["interval"],
        scores=score_rows(evaluation, None),
        samples=shown_samples(scorer.split, evaluation, None),
        facts=(("model", loaded.name), ("data hash", evaluation.scores["data_hash"])),
    )
    write_page(page, out / "page.html")
    console = make_console()
    console.print(summary_table(page))
    console.print(f"Page: {out / 'page.html'}", markup=False)


def _compare(folders: list[str]) -> None:
    if len(folders) != 2:
        raise UsageError(f"--compare takes two folders, A,B; found {len(folders)}.")
    first, second = (load(folder) for folder in folders)
    table = Table("questions", "score", "difference B - A", "95% interval", title=f"A {folders[0]}, B {folders[1]}")
    for row in compare(first, second):
        change = row.difference
        interval = "" if change.low is None else f"{change.low:+.3f} to {change.high:+.3f}"
        table.add_row(f"{row.task}, {row.answer_type}", row.score, f"{change.mean:+.3f}", interval)
    make_console().print(table)
