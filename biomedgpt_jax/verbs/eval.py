"""Scores a model on a prepared split under a named protocol, scores its answers again, or compares two evaluations.

    biomedgpt eval --config=configs/eval.py:data=data/vqa_rad --model=runs/instruct --out=runs/instruct/eval/test
    biomedgpt eval --config=configs/eval.py:data=data/vqa_rad,protocol=llava-med/v1 --rescore=runs/a/eval/test --out=OUT
    biomedgpt eval --config=configs/eval.py:data=data/vqa_rad,instruct=all --model=runs/instruct --out=OUT
    biomedgpt eval --compare runs/a/eval/test runs/b/eval/test
    biomedgpt eval --config=configs/eval_suite.py:root=data --model=runs/instruct --out=runs/instruct/suite

The model is a run, an imported model or a Hugging Face folder; with --hf any vision-language model that transformers
loads, by its folder or its name on the hub. Writes predictions.jsonl, scores.json and page.html. A suite asks about all
data sets that are prepared, goes on where it broke off, and writes one table: suite.md, .json, .html, .tex.
With `instruct` questions are put as free-form instructions, and scores say how many outputs obey them
(docs/instructions.md). Protocols: strict/v1, and llava-med/v1 as published, to compare with tables of papers. --rescore
asks nothing: it reads the predictions of an evaluation of the same data. Comparing refuses other protocols and data.
"""

import json
from pathlib import Path

from absl import flags
from rich.table import Table

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.eval.compare import compare, load
from biomedgpt_jax.eval.llava_med import with_candidates
from biomedgpt_jax.eval.protocols import Protocol, protocol
from biomedgpt_jax.eval.rescore import rescored
from biomedgpt_jax.eval.runner import write
from biomedgpt_jax.eval.summary import summarise
from biomedgpt_jax.report.page import write_page
from biomedgpt_jax.report.table import summary_table
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.asked_model import define_asked, open_model
from biomedgpt_jax.verbs.cluster import define_processes, join_processes
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.exam import Exam
from biomedgpt_jax.verbs.instructed import SUMMED_UP, exams_of, show, write_overview
from biomedgpt_jax.verbs.page_content import alignment_tables, evaluation_page
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.score_tables import all_scores, part_tables
from biomedgpt_jax.verbs.suite import run_suite

EXAMPLE = "biomedgpt eval --config=configs/eval.py:data=data/vqa_rad --model=runs/small --out=runs/small/eval/test"
KEYS = ("data", "split", "train_split", "protocol", "candidates", "instruct")
SUITE_KEYS = ("root", "sets", "tasks")
SEVERAL = ("compare",)


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    define_asked(values)
    define_processes(values)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_string("rescore", None, "Folder of an evaluation whose answers to score.", flag_values=values)
    flags.DEFINE_list("compare", [], "Two folders of evaluations: A B.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    if values.compare:
        _compare(values.compare)
        return
    is_suite = values.config is not None and "sets" in values.config
    config = command_line.require_config(values, EXAMPLE, SUITE_KEYS if is_suite else KEYS)
    if values.rescore and (values.model or is_suite):
        raise UsageError("--rescore scores answers that are there; leave --model out, or --rescore.")
    if not values.rescore:
        command_line.require(values, "model", EXAMPLE)
    out = command_line.require_folder(values, "out", EXAMPLE)
    if out.is_file():
        raise UsageError(f"--out={out} is a file, expected a folder or a new name.")
    _check_numbers(config)
    if is_suite:
        run_suite(values, config, out)
        return
    if not config.data:
        raise UsageError(f"config.data is empty; name prepared data, for example {EXAMPLE}")
    if values.rescore and out.resolve() == Path(values.rescore).resolve():
        raise UsageError("--rescore and --out are one folder; its scores would be lost. Write to another.")
    chosen = _protocol(config)
    if not values.rescore:
        join_processes(values)
    asked = list(exams_of(config, out))
    if values.rescore:
        if len(asked) > 1:
            raise UsageError("--rescore reads the answers to one wording; name it in config.instruct.")
        _rescore(values.rescore, asked[0][0], chosen, out)
    else:
        _ask(values, config, asked, chosen)
        if not is_leader():
            return
    _show(asked, out)


def _check_numbers(config: Config) -> None:
    for name, least in (("batch_rows", 1), ("max_new_tokens", 1), ("limit", 0)):
        if name in config and config[name] < least:
            raise UsageError(f"config.{name} = {config[name]}: expected {least} or more.")


def _ask(values: flags.FlagValues, config: Config, asked: list[tuple[Exam, Path]], chosen: Protocol) -> None:
    model = open_model(values, config)
    for _, folder in asked:
        folder.mkdir(parents=True, exist_ok=True)  # refused before the questions are asked, not after
    with progress() as advance:
        for exam, folder in asked:
            model.ask(exam, chosen, config.max_new_tokens, folder, advance)


def _show(asked: list[tuple[Exam, Path]], out: Path) -> None:
    """Writes the page of each evaluation and prints it; of several wordings all on one."""
    console, pages = make_console(), []
    evaluations = [load(str(folder)) for _, folder in asked]
    for (exam, folder), evaluation in zip(asked, evaluations, strict=True):
        pages.append(evaluation_page(evaluation, exam.split))
        write_page(pages[-1], folder / "page.html")
    if len(asked) > 1:
        page = write_overview(out, evaluations, pages)
        write_page(page, out / "page.html")
        show(console, page.tables[0], SUMMED_UP)
    else:
        (page,) = pages
        console.print(summary_table(page))
        for table in (*alignment_tables(evaluations[0]), *part_tables(evaluations[0]), all_scores(evaluations[0])):
            show(console, table, len(table.columns))
    console.print(f"Page: {out / 'page.html'}", markup=False)


def _rescore(folder: str, asked: Exam, chosen: Protocol, out: Path) -> None:
    evaluation = load(folder)
    answered = rescored(evaluation, asked.questions, chosen)
    summary = summarise(chosen, answered, asked.train_questions, asked.train_source)
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
