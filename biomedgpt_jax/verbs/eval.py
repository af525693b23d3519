"""Scores a model on a prepared split under a named protocol, scores its answers again, or compares two evaluations.

    biomedgpt eval --config=configs/eval.py:data=data/vqa_rad --model=runs/instruct --out=runs/instruct/eval/test
    biomedgpt eval --config=configs/eval.py:data=data/vqa_rad,protocol=llava-med/v1 --rescore=runs/a/eval/test --out=OUT
    biomedgpt eval --compare runs/a/eval/test runs/b/eval/test

The model is a run, an imported model or a Hugging Face folder. Writes predictions.jsonl, scores.json and page.html.
Protocols: strict/v1, and llava-med/v1 as published, to compare with tables of papers. --rescore asks nothing: it reads
the predictions of an evaluation of the same data. Comparing refuses other protocols and other data.
"""

import json
from pathlib import Path

import jax
from absl import flags
from rich.table import Table

from biomedgpt_jax.checkpoint.fingerprint import leaf_records, tree_hash
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.data.features import FeatureCache
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.eval.compare import compare, load
from biomedgpt_jax.eval.llava_med import with_candidates
from biomedgpt_jax.eval.protocols import Protocol, protocol
from biomedgpt_jax.eval.rescore import rescored
from biomedgpt_jax.eval.runner import write
from biomedgpt_jax.eval.summary import summarise
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.report.table import summary_table
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.biomedgpt_spec import holds_biomedgpt
from biomedgpt_jax.verbs.cluster import define_processes, join_processes
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.exam import split_questions
from biomedgpt_jax.verbs.family import Scorer
from biomedgpt_jax.verbs.features import open_features
from biomedgpt_jax.verbs.linting import score_facts
from biomedgpt_jax.verbs.loaded_model import LoadedModel, define_model, load_model
from biomedgpt_jax.verbs.page_content import evaluation_page
from biomedgpt_jax.verbs.pair_asking import pair_scorer
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.scoring import scorers

EXAMPLE = "biomedgpt eval --config=configs/eval.py:data=data/vqa_rad --model=runs/small --out=runs/small/eval/test"
KEYS = ("data", "split", "train_split", "protocol", "candidates")
SEVERAL = ("compare",)


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    define_model(values)
    define_processes(values)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_string("rescore", None, "Folder of an evaluation whose answers to score.", flag_values=values)
    flags.DEFINE_list("compare", [], "Two folders of evaluations: A B.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    if values.compare:
        _compare(values.compare)
        return
    config = command_line.require_config(values, EXAMPLE, KEYS)
    if values.rescore and values.model:
        raise UsageError("--rescore scores answers that are there; leave --model out, or --rescore.")
    if not values.rescore:
        command_line.require(values, "model", EXAMPLE)
    out = command_line.require_folder(values, "out", EXAMPLE)
    if not config.data:
        raise UsageError(f"config.data is empty; name prepared data, for example {EXAMPLE}")
    if values.rescore and out.resolve() == Path(values.rescore).resolve():
        raise UsageError("--rescore and --out are one folder; its scores would be lost. Write to another.")
    chosen = _protocol(config)
    if values.rescore:
        _rescore(values.rescore, config, chosen, out)
    else:
        join_processes(values)
        _ask(values, config, chosen, out)
        if not is_leader():
            return
    page = evaluation_page(load(str(out)), PreparedSplit(config.data, config.split))
    write_page(page, out / "page.html")
    console = make_console()
    console.print(summary_table(page))
    console.print(f"Page: {out / 'page.html'}", markup=False)


def _ask(values: flags.FlagValues, config: Config, chosen: Protocol, out: Path) -> None:
    folder = Path(values.model)
    loaded, scorer = (
        pair_scorer(folder, values.step, config, chosen) if holds_biomedgpt(folder) else _packed(values, config, chosen)
    )
    facts = {"model": loaded.name, "model_hash": tree_hash(leaf_records(loaded.params)), "dtype": config.dtype}
    facts |= score_facts(folder)
    out.mkdir(parents=True, exist_ok=True)  # refused before the questions are asked, not after
    with progress() as advance, jax.set_mesh(loaded.mesh):
        scorer(loaded.model, loaded.params, out, facts, advance)


def _packed(values: flags.FlagValues, config: Config, chosen: Protocol) -> tuple[LoadedModel, Scorer]:
    loaded = load_model(
        Path(values.model), values.step, config.dtype, template=values.template, geometry=values.geometry
    )
    features = None
    if config.features:
        asked = [PreparedSplit(config.data, config.split)]
        cache = FeatureCache(config.features)
        features = open_features(cache, loaded.spec, loaded.params["tower"], config.dtype, asked)
    (scorer,) = scorers(
        loaded.spec,
        loaded.tokenizer,
        (config.data,),
        config.split,
        train_split=config.train_split,
        protocol=chosen,
        batch_rows=config.batch_rows,
        max_new_tokens=config.max_new_tokens,
        features=features,
    )
    return loaded, scorer


def _rescore(folder: str, config: Config, chosen: Protocol, out: Path) -> None:
    evaluation, train = load(folder), PreparedSplit(config.data, config.train_split)
    answered = rescored(evaluation, split_questions(PreparedSplit(config.data, config.split)), chosen)
    summary = summarise(chosen, answered, split_questions(train), train.name)
    write(str(out), summary, answered, {**evaluation.scores["facts"], "rescored": folder})


def _protocol(config: Config) -> Protocol:
    """Raises UsageError for an unknown one, or candidates that are no list of answers."""
    found = protocol(config.protocol)
    if not config.candidates:
        return found
    if config.protocol != "llava-med/v1":
        raise UsageError(f"config.candidates belongs to the protocol llava-med/v1, not to {config.protocol}.")
    try:
        content = json.loads(Path(config.candidates).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"config.candidates = {config.candidates!r}: {error}.") from error
    if not (isinstance(content, list) and content and all(isinstance(answer, str) for answer in content)):
        raise UsageError(f"config.candidates = {config.candidates!r}: expected a JSON list of answers.")
    return with_candidates(content)


def _compare(folders: list[str]) -> None:
    if len(folders) != 2:
        raise UsageError(f"--compare takes two folders, A B; found {len(folders)}.")
    first, second = (load(folder) for folder in folders)
    rows = compare(first, second)
    title = f"A {folders[0]}, B {folders[1]}, under {first.scores['protocol']}"
    table = Table("questions", "n", "score", "A", "B", "difference B - A", "95% interval", title=title)
    for row in rows:
        change = row.difference
        interval = "" if change.low is None else f"{change.low:+.3f} to {change.high:+.3f}"
        means = (f"{row.mean_a:.3f}", f"{row.mean_b:.3f}", f"{change.mean:+.3f}")
        table.add_row(f"{row.task}, {row.answer_type}", str(row.n), row.score, *means, interval)
    make_console().print(table)
