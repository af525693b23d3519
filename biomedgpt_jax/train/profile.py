"""A trace of a few steps, for xprof (TensorBoard's profiler): <workdir>/profile/plugins/profile/*/*.xplane.pb."""

from dataclasses import dataclass

import jax
from etils import epath

from biomedgpt_jax.core.types import Batch, TrainState
from biomedgpt_jax.train.step import Metrics, Step

FOLDER = "profile"


@dataclass(frozen=True)
class ProfileSettings:
    start: int  # the number of the first step that is traced, as the metrics number them
    steps: int


class ProfiledStep:
    """A step function that traces some of its calls; what is open when it is left is written too.

    Args:
        step: what is called.
        settings: which calls to trace.
        done: the number of steps that the run has behind it.
        workdir: of the run.
    """

    def __init__(self, step: Step, settings: ProfileSettings, *, done: int, workdir: epath.PathLike):
        self._step, self._settings, self._number = step, settings, done
        self._folder = epath.Path(workdir) / FOLDER
        self._tracing = False

    def __enter__(self) -> "ProfiledStep":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        self._number += 1
        if self._number == self._settings.start:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=self._number):
            state, metrics = self._step(state, batch)
        if self._tracing and self._number == self._settings.start + self._settings.steps - 1:
            jax.block_until_ready(metrics)
            self._stop()
        return state, metrics

    def _stop(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
