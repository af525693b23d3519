"""One training run in its workdir: restore or start, loop, and prove that what was frozen stayed so.

<workdir>/metrics.jsonl  tensorboard/  base/  checkpoints/  profile/  bad_batch_step_*.json
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from biomedgpt_jax.checkpoint.base import check_frozen, save_base
from biomedgpt_jax.checkpoint.run import RunCheckpoints
from biomedgpt_jax.core.placing import Rows, place_batch
from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.core.types import ModelFns, Params, TrainState
from biomedgpt_jax.train.gradients import GradientCheck
from biomedgpt_jax.train.loop import LoopSettings, Outcome, train_loop
from biomedgpt_jax.train.metrics import Row, Writer
from biomedgpt_jax.train.optim import Optimizer
from biomedgpt_jax.train.profile import ProfiledStep, ProfileSettings
from biomedgpt_jax.train.recorder import Costs, Recorder
from biomedgpt_jax.train.state import first_state
from biomedgpt_jax.train.step import StepSettings, compile_step, make_train_step
from biomedgpt_jax.train.stop import StopRequest


@dataclass(frozen=True)
class Run:
    """What a run is, apart from its data and its starting weights."""

    workdir: epath.PathLike
    config: Mapping[str, Any]  # JSON; stored in each checkpoint
    model: ModelFns
    optimizer: Optimizer
    abstract: TrainState  # from `abstract_state`
    mesh: Mesh
    step: StepSettings
    loop: LoopSettings
    keep_checkpoints: int | None  # None: all
    late_gradients: Callable[[str], bool]  # paths without a gradient at step 1 (gradients.py)
    unused: Callable[[str], bool]  # paths that may never get one
    expects_images: bool
    costs: Costs
    profile: ProfileSettings | None


def run_training(
    run: Run,
    data: Any,
    rows: Rows,
    *,
    start: Callable[[], Params],
    writers: Callable[[int | None], Sequence[AbstractContextManager[Writer]]],
    sample_name: Callable[[int], str],
    evaluate: Callable[[TrainState], Row],
) -> Outcome:
    """Trains from the newest checkpoint of the workdir, or from `start()` when there is none.

    Args:
        run: what to train and how.
        data: a Grain iterator over host batches; set back to its saved place on resume.
        rows: which rows of each batch they hold.
        start: the starting parameters, all of them (checkpoint/start.py); not called on resume.
        writers: restored step (None in a new run) -> the writers to open (metrics.py); used on the first process alone.
        sample_name: sample number of a batch's `samples` -> id.
        evaluate: state -> figures.

    Raises:
        RunError: see `RunCheckpoints.restore`, `train_loop` and `check_frozen`.
    """
    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(run.mesh))
        checkpoints = stack.enter_context(RunCheckpoints(run.workdir, keep=run.keep_checkpoints))
        stack.enter_context(checkpoints.refusals())
        restored = checkpoints.latest()
        if restored is None:
            state = first_state(run.abstract, run.optimizer, start())
            base = save_base(run.workdir, state.frozen)
        else:
            state, base = checkpoints.restore(restored, run.abstract, data)
        chosen = writers(restored) if is_leader() else ()
        recorder = Recorder(
            # A failed save stops the run at the next log line, not at the next save.
            [*(stack.enter_context(writer) for writer in chosen), lambda rows: checkpoints.check()],
            costs=run.costs,
            gradient_check=GradientCheck(
                is_late=run.late_gradients, is_unused=run.unused, expects_images=run.expects_images
            ),
            sample_name=sample_name,
            folder=run.workdir,
        )
        step = compile_step(make_train_step(run.model, run.optimizer, run.step), run.abstract, run.mesh)
        if run.profile:
            done = int(state.step)
            step = stack.enter_context(ProfiledStep(step, run.profile, done=done, workdir=run.workdir))
        outcome = train_loop(
            step,
            state,
            data,
            settings=run.loop,
            place=lambda batch: place_batch(batch, run.mesh, rows),
            save=lambda step, state: checkpoints.save(step, state, data, config=run.config, base=base),
            evaluate=evaluate,
            recorder=recorder,
            stop=stack.enter_context(StopRequest()),
        )
        check_frozen(outcome.state.frozen, base)
        return outcome
