"""Trains a model. The same command again resumes; Ctrl-C or SIGTERM saves and stops.

biomedgpt train --workdir=runs/align --config=configs/llama3_med.py:stage=1,data=data/pubmedvision,...
biomedgpt train --workdir=runs/small --config=configs/smoke.py:stage=1,data=data/vqa_rad
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from biomedgpt_jax.core.compile_cache import cache_folder, use_cache
from biomedgpt_jax.core.errors import EXIT_RESTART, UsageError
from biomedgpt_jax.core.lora import begins_behind_zero
from biomedgpt_jax.core.partition import split
from biomedgpt_jax.core.placing import local_rows
from biomedgpt_jax.core.processes import leader_first
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import ModelFns, TrainState
from biomedgpt_jax.data.features import FeatureReader
from biomedgpt_jax.data.tokenizers import Tokenizer
from biomedgpt_jax.eval.protocols import protocol
from biomedgpt_jax.models.llama3_med import Tune, trainable
from biomedgpt_jax.train.ledger import ledger_json, make_ledger, print_ledger
from biomedgpt_jax.train.loop import LoopSettings
from biomedgpt_jax.train.metrics import Writer, jsonl_writer, tensorboard_writer, terminal_writer, wandb_writer
from biomedgpt_jax.train.objectives import all_words
from biomedgpt_jax.train.optim import Decay, OptimConfig, Optimizer, make_optimizer
from biomedgpt_jax.train.profile import ProfileSettings
from biomedgpt_jax.train.run import Run, run_training
from biomedgpt_jax.train.state import abstract_state, answering_params
from biomedgpt_jax.train.step import StepSettings
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.cluster import define_processes, join_processes
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.costs import training_costs
from biomedgpt_jax.verbs.features import training_features
from biomedgpt_jax.verbs.model_spec import (
    DTYPES,
    ModelSpec,
    build_model,
    image_transform,
    lookup,
    remat_from_config,
    spec_from_config,
    write_spec,
)
from biomedgpt_jax.verbs.origins import write_origins
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.scoring import Evaluate, headline_figures, scorers
from biomedgpt_jax.verbs.starting_weights import check_origins, start_params
from biomedgpt_jax.verbs.training_checks import begun, check_rows, check_same_model, check_settings
from biomedgpt_jax.verbs.training_data import reading, run_tokenizer, training_data

EXAMPLE = "biomedgpt train --workdir=runs/small --config=configs/smoke.py:stage=1,data=data/vqa_rad"
SECTIONS = ("model", "init", "tokenizer", "data", "tune", "lora", "optim", "train", "eval", "mesh", "log", "profile")
TUNE = {kind.value: kind for kind in Tune}


@dataclass(frozen=True)
class Parts:
    """What a configuration builds before any weight exists."""

    spec: ModelSpec
    model: ModelFns
    mesh: Mesh
    optimizer: Optimizer
    abstract: TrainState
    is_trainable: Callable[[str], bool]


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    define_processes(values)
    flags.DEFINE_string("workdir", None, "Folder of the run; made when absent.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    config = command_line.require_config(values, EXAMPLE, SECTIONS)
    workdir = command_line.require_folder(values, "workdir", EXAMPLE)
    join_processes(values)
    use_cache(cache_folder(config.compile_cache, str(workdir), jax.default_backend()))
    return train(config, workdir, make_console())


def train(config: Config, workdir: Path, console: Console) -> int:
    """Runs the whole of a training, or what is left of it; returns the exit code."""
    check_settings(config)
    say = partial(console.print, markup=False, highlight=False)
    if workdir.is_file():
        raise UsageError(f"--workdir: {workdir} is a file, expected a folder or a new name.")
    workdir.mkdir(parents=True, exist_ok=True)
    spec = spec_from_config(config)
    # Settings that do not fit each other fail here, before the data is read.
    mesh = build_parts(config, spec, total_steps=1).mesh
    check_rows(config, mesh)
    if begun(workdir):
        check_same_model(workdir, spec)
    else:
        check_origins(config, spec)
    features = training_features(config, spec, mesh, workdir)
    with leader_first("prepare the run"), progress() as advance:
        tokenizer = run_tokenizer(config, workdir)
        data = training_data(config, spec, tokenizer, workdir, advance, features.feature_shape if features else None)
    parts = build_parts(config, spec, data.num_steps)
    ledger = make_ledger(parts.abstract, parts.optimizer)
    print_ledger(ledger, console)
    fill = f"{data.fill.token_share:.1%} of tokens, {data.fill.image_share:.1%} of image slots"
    say(f"{data.num_steps} steps of {data.batch_size} rows; filled: {fill}; left out: {len(data.skipped)} samples")
    rows = local_rows(parts.mesh, data.batch_size)
    outcome = run_training(
        Run(
            workdir=epath.Path(workdir),
            config=json.loads(config.to_json()),
            model=parts.model,
            optimizer=parts.optimizer,
            abstract=parts.abstract,
            mesh=parts.mesh,
            step=step_settings(config, spec),
            loop=LoopSettings(
                total_steps=data.num_steps,
                log_every=config.train.log_every,
                save_every=config.train.save_every,
                evaluate_every=data.num_steps if config.eval.paths else 0,
            ),
            keep_checkpoints=config.train.keep,
            late_gradients=begins_behind_zero,
            unused=lambda path: False,
            expects_images=spec.model.tokens_per_image > 0,
            costs=training_costs(config, spec, parts.is_trainable),
            profile=_profile(config, data.num_steps),
        ),
        data.batches(features or image_transform(spec), reading(config), range(rows.start, rows.stop)),
        rows,
        start=lambda: start_params(config, spec, parts.mesh, say),
        writers=partial(
            _open_run, workdir, config, spec, ledger_json(ledger) | {"fill": asdict(data.fill)}, data.num_steps, console
        ),
        sample_name=data.sample_id,
        evaluate=_evaluate(config, parts, tokenizer, workdir, features),
    )
    if outcome.finished:
        say(f"Done: {outcome.step} steps in {workdir}.")
    else:
        say(f"Stopped at step {outcome.step} of {data.num_steps}; the same command goes on.")
    return EXIT_RESTART if outcome.preempted else 0


def build_parts(config: Config, spec: ModelSpec, total_steps: int, devices: Sequence[Any] | None = None) -> Parts:
    """Model, mesh, optimizer and the state as shapes; nothing is allocated.

    Args:
        devices: to lay out, None: those of this machine and its like.

    Raises:
        UsageError: settings that do not fit each other.
    """
    model = build_model(spec, compute_dtype=config.model.compute_dtype, remat=remat_from_config(config))
    mesh = make_mesh(MeshShape(**config.mesh), devices)
    is_trainable = trainable(
        spec.model,
        tower=config.tune.tower,
        connector=config.tune.connector,
        decoder=lookup("tune.decoder", config.tune.decoder, TUNE),
    )
    axes, _ = split(model.axes(), is_trainable)
    if not axes:
        raise UsageError("config.tune freezes everything; there is nothing to train.")
    optimizer = make_optimizer(_optim_config(config, total_steps), axes)
    frozen_dtype = lookup("model.frozen_dtype", config.model.frozen_dtype, DTYPES)
    abstract = abstract_state(model, optimizer, is_trainable, mesh=mesh, frozen_dtype=frozen_dtype)
    return Parts(spec, model, mesh, optimizer, abstract, is_trainable)


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


def step_settings(config: Config, spec: ModelSpec) -> StepSettings:
    return StepSettings(
        micro_batches=config.train.accumulate,
        objective=all_words(chunk_size=config.train.loss_chunk, label_smoothing=0.0, z_loss=0.0, vocab_size=None),
        tokens_per_image=spec.model.tokens_per_image,
        seed=config.seed,
        average_decay=0.0,
    )


def _open_run(
    workdir: Path,
    config: Config,
    spec: ModelSpec,
    ledger: dict[str, Any],
    steps: int,
    console: Console,
    restored: int | None,
) -> Sequence[AbstractContextManager[Writer]]:
    """Called when the state is there: a checkpoint that does not fit leaves the files of its run as they are."""
    write_spec(workdir, spec)
    if restored is None:
        write_origins(workdir, config)
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
    config: Config, parts: Parts, tokenizer: Tokenizer, workdir: Path, features: FeatureReader | None
) -> Evaluate:
    asked = scorers(
        parts.spec,
        tokenizer,
        config.eval.paths,
        config.eval.split,
        train_split=config.data.split,
        protocol=protocol(config.eval.protocol),
        batch_rows=config.eval.batch_rows,
        max_new_tokens=config.eval.max_new_tokens,
        features=features,
    )

    def evaluate(state: TrainState) -> dict[str, float | int]:
        figures: dict[str, float | int] = {}
        params, step = answering_params(state), int(state.step)
        with progress() as advance:
            for scorer in asked:
                folder = workdir / "eval" / f"step_{step}" / scorer.folder_name
                facts = {"model": f"{workdir} step {step}", "dtype": config.model.compute_dtype}
                summary, _ = scorer(parts.model, params, folder, facts, advance)
                figures |= headline_figures(summary, f"score/{scorer.folder_name}" if len(asked) > 1 else "score")
        return figures

    return evaluate
