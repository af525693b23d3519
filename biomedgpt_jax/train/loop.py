"""The training loop. Its order is law: evaluate, save, step, log."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import jax

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.types import Batch, TrainState
from biomedgpt_jax.train.metrics import Row
from biomedgpt_jax.train.recorder import Recorder
from biomedgpt_jax.train.step import Step
from biomedgpt_jax.train.stop import StopRequest


@dataclass(frozen=True)
class LoopSettings:
    total_steps: int
    log_every: int
    save_every: int  # and at the end and on a stop
    evaluate_every: int  # 0: never


@dataclass(frozen=True)
class Outcome:
    state: TrainState
    step: int
    finished: bool  # False: a signal asked to stop; the state is saved and the same command goes on
    preempted: bool  # that signal was not of a person


def train_loop(
    step_fn: Step,
    state: TrainState,
    data: Iterator[dict[str, Any]],
    *,
    settings: LoopSettings,
    place: Callable[[dict[str, Any]], Batch],
    save: Callable[[int, TrainState], None],
    evaluate: Callable[[TrainState], Row],
    recorder: Recorder,
    stop: StopRequest,
) -> Outcome:
    """Runs from the state's step to the last one, or to the first boundary after a stop request.

    Args:
        step_fn: the compiled step; donates its state.
        state: where to begin.
        data: host batches, standing where the state's step left it.
        settings: when to do what.
        place: host batch -> device batch.
        save: called with the step and state, the data iterator being right behind the last used batch.
        evaluate: state -> figures, written in the step's row.
        recorder: gets the metrics; they are read on logging steps and before saving only.
        stop: asked at each boundary.

    Raises:
        RunError: a loss is not finite, a leaf gets no gradient, or the data ends too early.
    """
    begin = step = int(state.step)
    met: set[Any] = set()  # forms of batches
    with jax.transfer_guard("disallow"):
        while True:
            last, stopping = step >= settings.total_steps, stop.requested(step)
            # A resumed run did both before it was saved.
            due_evaluation = (step > begin or step == 0) and _due(step, settings.evaluate_every, last)
            due_save = stopping or (step > begin and _due(step, settings.save_every, last))

            if due_evaluation or due_save:
                recorder.flush()
                with jax.transfer_guard("allow"):
                    if due_evaluation:
                        recorder.write({"step": step, **evaluate(state)})
                    if due_save:
                        save(step, state)
                recorder.start_clock()
            if last or stopping:
                return Outcome(state, step, finished=last, preempted=stop.preempted and not last)

            begun = monotonic()
            batch = _next(data, step, settings.total_steps)
            recorder.waited(monotonic() - begun)
            samples = batch.pop("samples", None)
            form = frozenset((name, array.shape) for name, array in batch.items())
            if new := form not in met:  # the step is compiled for it, in an interval of its own
                met.add(form)
                recorder.flush()
            state, metrics = step_fn(state, place(batch))
            step += 1

            recorder.add(step, metrics, samples)
            if _due(step, settings.log_every, new):
                recorder.flush(compiled=new)


def _due(step: int, every: int, also: bool) -> bool:
    """Every `every` steps, and when `also`; never if `every` is 0."""
    return every > 0 and (also or step % every == 0)


def _next(data: Iterator[dict[str, Any]], step: int, total_steps: int) -> dict[str, Any]:
    try:
        return dict(next(data))
    except StopIteration:
        raise RunError(
            f"The data ended after step {step} of {total_steps}; expected a pipeline that repeats or fewer steps."
        ) from None
