"""Traces as xprof reads them: the steps that were asked for, and no others."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from biomedgpt_jax.core.types import TrainState
from biomedgpt_jax.train.profile import ProfiledStep, ProfileSettings


@jax.jit
def add(state, batch):
    """Adds the batch up in the state."""
    return replace(state, trainable={"sum": state.trainable["sum"] + batch["tokens"].sum()}), {
        "loss": batch["tokens"].mean()
    }


def first():
    state = TrainState(step=jnp.zeros((), jnp.int32), trainable={"sum": jnp.zeros(())}, frozen={}, opt_state=())
    return state, {"tokens": jnp.ones(8)}


def traced_steps(workdir) -> list[int]:
    """Numbers of the steps in the only trace there."""
    (file,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    events = [
        event
        for plane in ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    return sorted({int(value) for event in events for name, value in event.stats if name == "step_num"})


@pytest.mark.parametrize(
    ("settings", "done", "traced"),
    [
        (ProfileSettings(start=2, steps=2), 0, [2, 3]),
        (ProfileSettings(start=12, steps=1), 10, [12]),
        (ProfileSettings(start=4, steps=100), 0, [4, 5]),  # the run ends inside
    ],
    ids=["two steps", "resumed", "to the end"],
)
def test_the_steps_asked_for_are_traced(tmp_path, settings, done, traced):
    state, batch = first()
    with jax.transfer_guard("disallow"), ProfiledStep(add, settings, done=done, workdir=tmp_path) as step:
        for _ in range(5):
            state, metrics = step(state, batch)
    assert traced_steps(tmp_path) == traced
    assert (float(state.trainable["sum"]), float(metrics["loss"])) == (40.0, 1.0)


def test_a_run_that_is_past_it_traces_nothing(tmp_path):
    with ProfiledStep(add, ProfileSettings(start=2, steps=2), done=2, workdir=tmp_path) as step:
        step(*first())
    assert list(tmp_path.iterdir()) == []
