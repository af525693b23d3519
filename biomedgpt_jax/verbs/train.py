"""Trains a model. The same command again resumes; Ctrl-C or SIGTERM saves and stops.

biomedgpt train --workdir=runs/align --config=configs/llama3_med.py:stage=1,data=data/pubmedvision,...
biomedgpt train --workdir=runs/small --config=configs/smoke.py:stage=1,data=data/vqa_rad

A new run checks its data first (see `biomedgpt lint`) and refuses errors that --allow=CODE does not name.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from biomedgpt_jax.checkpoint.fingerprint import leaf_records, tree_hash
from biomedgpt_jax.core.compile_cache import cache_folder, use_cache
from biomedgpt_jax.core.errors import EXIT_RESTART, UsageError
from biomedgpt_jax.core.host_memory import keep_freed_memory
from biomedgpt_jax.core.partition import split
from biomedgpt_jax.core.placing import local_rows
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import ModelFns, TrainState
from biomedgpt_jax.train.ledger import Ledger, ledger_json, make_ledger, print_ledger
from biomedgpt_jax.train.loop import LoopSettings
from biomedgpt_jax.train.metrics import Writer, jsonl_writer, tensorboard_writer, terminal_writer, wandb_writer
from biomedgpt_jax.train.objectives import Objective
from biomedgpt_jax.train.only_one import only_one
from biomedgpt_jax.train.optim import Decay, OptimConfig, Optimizer, make_optimizer
from biomedgpt_jax.train.profile import ProfileSettings
from biomedgpt_jax.train.run import Run, run_training
from biomedgpt_jax.train.state import abstract_state, answering_params
from biomedgpt_jax.train.step import StepSettings
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.cluster import define_processes, join_processes
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.families import family_of, training_config
from biomedgpt_jax.verbs.family import Family, Predicate, Scorer, Spec
from biomedgpt_jax.verbs.linting import define_allow, lint_at_start, score_facts, take_allowed
from biomedgpt_jax.verbs.model_spec import DTYPES, lookup
from biomedgpt_jax.verbs.origins import write_origins
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.scoring import headline_figures
from biomedgpt_jax.verbs.spec_file import write_spec
from biomedgpt_jax.verbs.training_checks import begun, check_rows, check_same_model, check_settings

EXAMPLE = "biomedgpt train --workdir=runs/small --config=configs/smoke.py:stage=1,data=data/vqa_rad"


@dataclass(frozen=True)
class Parts:
    """What a configuration builds before any weight exists."""

    family: Family
    spec: Spec
    model: ModelFns
    mesh: Mesh
    optimizer: Optimizer
    abstract: TrainState
    is_trainable: Predicate

    def ledger(self) -> Ledger:
        return make_ledger(self.abstract, self.optimizer, self.family.padding(self.spec))


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    define_processes(values)
    define_allow(values)
    flags.DEFINE_string("workdir", None, "Folder of the run; made when absent.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    config = training_config(values, EXAMPLE)
    workdir = command_line.require_folder(values, "workdir", EXAMPLE)
    take_allowed(values, config)
    keep_freed_memory()
    join_processes(values)
    use_cache(cache_folder(config.compile_cache, str(workdir), jax.default_backend()))
    return train(config, workdir, make_console())


def train(config: Config, workdir: Path, console: Console) -> int:
    """Runs the whole of a training, or what is left of it; returns the exit code."""
    family = checked_family(config)
    if workdir.is_file():
        raise UsageError(f"--workdir: {workdir} is a file, expected a folder or a new name.")
    workdir.mkdir(parents=True, exist_ok=True)
    with only_one(workdir):
        return _trained(config, family, workdir, console)


def _trained(config: Config, family: Family, workdir: Path, console: Console) -> int:
    say = partial(console.print, markup=False, highlight=False)
    # Settings that do not fit each other fail here, before the data is read.
    parts = build_parts(config, total_steps=1)
    spec = parts.spec
    check_mesh(config, parts)
    resumes = begun(workdir)
    if resumes:
        check_same_model(workdir, spec)
    else:
        family.check_start(config, spec)
    data = family.data(config, spec, parts.mesh, workdir)
    if not resumes:
        lint_at_start(config, spec, workdir, say)
    parts = build_parts(config, data.num_steps)
    ledger = parts.ledger()
    print_ledger(ledger, console)
    say(data.said)
    rows = local_rows(parts.mesh, config.train.batch_rows)
    outcome = run_training(
        Run(
            workdir=epath.Path(workdir),
            config=json.loads(config.to_json()),
            model=parts.model,
            optimizer=parts.optimizer,
            abstract=parts.abstract,
            mesh=parts.mesh,
            step=step_settings(config, parts, data.objective),
            loop=LoopSettings(
                total_steps=data.num_steps,
                log_every=config.train.log_every,
                save_every=config.train.save_every,
                evaluate_every=data.num_steps if data.scorers else 0,
            ),
            keep_checkpoints=config.train.keep,
            late_gradients=family.late,
            unused=family.unused(config, spec),
            expects_images=family.sees_images(config, spec),
            costs=family.costs(config, spec, parts.is_trainable),
            profile=_profile(config, data.num_steps),
        ),
        data.batches(range(rows.start, rows.stop)),
        rows,
        start=lambda: family.start(config, spec, parts.mesh, say),
        writers=partial(
            _open_run, workdir, config, parts, {**ledger_json(ledger), **data.facts}, data.num_steps, console
        ),
        sample_name=data.sample_name,
        evaluate=_evaluate(config, parts, data.scorers, workdir),
    )
    if outcome.finished:
        say(f"Done: {outcome.step} steps in {workdir}.")
    else:
        say(f"Stopped at step {outcome.step} of {data.num_steps}; the same command goes on.")
    return EXIT_RESTART if outcome.preempted else 0


def checked_family(config: Config) -> Family:
    """The family of a configuration. Raises UsageError for settings that cannot be."""
    family = family_of(config)
    check_settings(config)
    family.check(config)
    return family


def build_parts(config: Config, total_steps: int, devices: Sequence[Any] | None = None) -> Parts:
    """Model, mesh, optimizer and the state as shapes; nothing is allocated.

    Args:
        devices: to lay out, None: those of this machine and its like.

    Raises:
        UsageError: settings that do not fit each other.
    """
    family = family_of(config)
    spec = family.spec(config)
    model = family.build(config, spec)
    mesh = make_mesh(MeshShape(**config.mesh), devices)
    asked = family.trainable(config, spec)

    def is_trainable(path: str) -> bool:
        return asked(path) and not model.is_statistic(path)

    axes, _ = split(model.axes(), is_trainable)
    if not axes:
        raise UsageError("config.tune freezes everything; there is nothing to train.")
    optimizer = make_optimizer(_optim_config(config, total_steps), axes)
    abstract = abstract_state(
        model,
        optimizer,
        is_trainable,
        mesh=mesh,
        frozen_dtype=lookup("model.frozen_dtype", config.model.frozen_dtype, DTYPES),
        averaged=config.train.average_decay > 0,
    )
    return Parts(family, spec, model, mesh, optimizer, abstract, is_trainable)


def check_mesh(config: Config, parts: Parts) -> None:
    """Raises UsageError where the mesh does not divide a batch."""
    check_rows(config, parts.mesh)
    parts.family.check_rows(config, parts.mesh)


def _optim_config(config: Config, total_steps: int) -> OptimConfig:
    settings = dict(config.optim)
    settings["group_rates"] = dict(settings["group_rates"])
    settings["rate_decay"] = lookup("optim.rate_decay", settings["rate_decay"], {each.value: each for each in Decay})
    return OptimConfig(total_steps=total_steps, **settings)


def _profile(config: Config, steps: int) -> ProfileSettings | None:
    settings = ProfileSettings(**config.profile)
    if settings.start == 0:
        return None
    if not 0 < settings.start <= steps or settings.steps < 1:
        raise UsageError(
            f"config.profile: start={settings.start} and steps={settings.steps}; expected 1 or more steps from one of "
            f"the run's {steps} on, or start=0 for no profile."
        )
    return settings


def step_settings(config: Config, parts: Parts, objective: Objective) -> StepSettings:
    return StepSettings(
        micro_batches=config.train.accumulate,
        objective=objective,
        tokens_per_image=parts.family.tokens_per_image(parts.spec),
        seed=config.seed,
        average_decay=config.train.average_decay,
    )


def _open_run(
    workdir: Path,
    config: Config,
    parts: Parts,
    ledger: dict[str, Any],
    steps: int,
    console: Console,
    restored: int | None,
) -> Sequence[AbstractContextManager[Writer]]:
    """Called when the state is there: a checkpoint that does not fit leaves the files of its run as they are."""
    write_spec(workdir, parts.spec)
    if restored is None:
        write_origins(workdir, config, parts.family.weights(config))
    (workdir / "ledger.json").write_text(json.dumps(ledger, indent=1) + "\n")
    (workdir / "config.json").write_text(config.to_json(indent=1) + "\n")

    writers: list[Any] = [
        terminal_writer(total_steps=steps, restored_step=restored, console=console),
        jsonl_writer(epath.Path(workdir) / "metrics.jsonl", restored_step=restored),
    ]
    if config.log.tensorboard:
        writers.append(tensorboard_writer(workdir / "tensorboard", restored_step=restored))
    if config.log.wandb:
        facts = json.loads(config.to_json())
        writers.append(wandb_writer("biomedgpt_jax", workdir.resolve().name, config=facts))
    return writers


def _evaluate(
    config: Config, parts: Parts, scorers: Sequence[Scorer], workdir: Path
) -> Callable[[TrainState], dict[str, float | int]]:
    def evaluate(state: TrainState) -> dict[str, float | int]:
        figures: dict[str, float | int] = {}
        params, step = answering_params(state), int(state.step)
        asked = {
            "model": f"{workdir} step {step}",
            "model_hash": tree_hash(leaf_records(params)),
            "dtype": config.model.compute_dtype,
            **score_facts(workdir),
        }
        with progress() as advance:
            for scorer in scorers:
                folder = workdir / "eval" / f"step_{step}" / scorer.folder_name
                summary, _ = scorer(parts.model, params, folder, asked, advance)
                figures |= headline_figures(summary, f"score/{scorer.folder_name}" if len(scorers) > 1 else "score")
        return figures

    return evaluate
