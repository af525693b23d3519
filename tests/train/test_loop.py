"""The loop and the recorder on a step that only counts."""

import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.types import TrainState
from biomedgpt_jax.train.gradients import GradientCheck
from biomedgpt_jax.train.loop import LoopSettings, train_loop
from biomedgpt_jax.train.recorder import Costs, Recorder
from biomedgpt_jax.train.stop import StopRequest


class StopAt(StopRequest):
    def __init__(self, at):
        super().__init__()
        self._at = at

    def requested(self, step):
        return step == self._at


@jax.jit
def _count(state, batch):
    loss = jnp.sum(batch["tokens"])
    metrics = {"loss": loss, "grad_norm": loss * 0 + 1, "tokens": loss * 0 + 64, "images": loss * 0 + 2}
    return TrainState(state.step + 1, {}, {}, {}), metrics


def _data(losses):
    return iter(
        {"tokens": np.atleast_1d(np.float32(loss)), "samples": np.asarray([[number, -1]])}
        for number, loss in enumerate(losses)
    )


def _loop(folder, losses, *, begin=0, total=5, log=2, save=3, evaluate=2, stop_at=None, place=jax.device_put, **checks):
    events, rows = [], []

    def write(new):
        rows.extend(new)
        events.append(f"log {new[-1]['step']}" if "loss" in new[-1] else f"note {new[-1]['step']}")

    def step(state, batch):
        events.append("step")
        return _count(state, batch)

    def evaluate_now(state):
        events.append("evaluate")
        return {"figure": 1.0}

    recorder = Recorder(
        [write],
        costs=Costs({"tokens": 10.0, "images": 1e3}, peak_flops=1e9),
        gradient_check=GradientCheck(is_late=lambda path: False, is_unused=lambda path: False, expects_images=True),
        sample_name=lambda number: f"sample-{number}",
        folder=folder,
    )
    outcome = train_loop(
        step,
        TrainState(jax.device_put(np.int32(begin)), {}, {}, {}),
        _data(losses),
        settings=LoopSettings(total, log, save, evaluate),
        place=place,
        save=lambda step, state: events.append(f"save {step}={int(state.step)}"),
        evaluate=evaluate_now,
        recorder=recorder,
        stop=StopAt(stop_at),
    )
    return outcome, events, rows


def test_order_is_evaluate_save_step_log(tmp_path):
    outcome, events, rows = _loop(tmp_path, [1, 2, 3, 4, 5])
    assert events == [
        *("evaluate", "note 0", "step", "log 1", "step", "log 2"),
        *("evaluate", "note 2", "step", "log 3", "save 3=3", "step", "log 4"),
        *("evaluate", "note 4", "step", "log 5", "evaluate", "note 5", "save 5=5"),
    ]
    assert outcome.finished and outcome.step == 5
    assert [row["loss"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5]


def test_every_step_has_a_row_though_metrics_are_read_together(tmp_path):
    _, events, rows = _loop(tmp_path, range(9), total=9, log=4, save=0, evaluate=0)
    assert [event for event in events if event.startswith("log")] == ["log 1", "log 4", "log 8"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    speed = rows[3]
    assert "step_seconds" in speed and "step_seconds" not in rows[2] and "first_step_seconds" in rows[0]
    np.testing.assert_allclose(speed["tokens_per_second"] * speed["step_seconds"], 64)
    np.testing.assert_allclose(speed["images_per_second"] * speed["step_seconds"], 2)
    np.testing.assert_allclose(
        speed["mfu"], (10 * 64 + 1e3 * 2) / speed["step_seconds"] / 1e9 / jax.device_count(), rtol=1e-6
    )
    assert 0 <= speed["data_wait_share"] < 1


def test_what_compiles_for_another_form_of_batch_is_no_training_time(tmp_path):
    """Batches of one, two or three rows, each form of which costs a tenth of a second when it is met."""
    forms, met = [1, 1, 2, 1, 2, 2, 3, 1, 3], set()

    def place(batch):
        if (rows := len(batch["tokens"])) not in met:
            met.add(rows)
            time.sleep(0.1)
        return jax.device_put(batch)

    _, _, rows = _loop(tmp_path, [[1.0] * rows for rows in forms], total=9, log=4, save=9, evaluate=0, place=place)
    assert [row["step"] for row in rows] == list(range(1, 10))
    timed = {row["step"]: row for row in rows if "first_step_seconds" in row or "step_seconds" in row}
    # Before a new form is met, what is pending is a whole interval of its own.
    assert [step for step, row in timed.items() if "first_step_seconds" in row] == [1, 3, 7]
    assert [step for step, row in timed.items() if "step_seconds" in row] == [2, 4, 6, 8, 9]
    assert all(row.get("first_step_seconds", 1) > 0.1 for row in timed.values())


def test_a_stop_request_saves_at_the_boundary_and_a_resume_repeats_nothing(tmp_path):
    outcome, events, _ = _loop(tmp_path, range(5), stop_at=4, evaluate=0)
    assert not outcome.finished and outcome.step == 4
    assert events[-1] == "save 4=4" and events.count("step") == 4
    outcome, events, rows = _loop(tmp_path, range(5), begin=3)
    assert outcome.finished and events[:2] == ["step", "log 4"] and rows[0]["step"] == 4
    outcome, events, _ = _loop(tmp_path, range(5), begin=5)
    assert outcome.finished and events == []


def test_the_bad_step_between_two_looks_is_named_and_nothing_is_saved_after_it(tmp_path):
    with pytest.raises(RunError, match=r"Step 6: loss nan.*bad_batch_step_6") as caught:
        _loop(tmp_path, [1, 2, 3, 4, 5, np.nan, 7, 8], total=8, log=4, save=7, evaluate=0)
    assert "the last checkpoint is from before it" in str(caught.value)
    (file,) = Path(tmp_path).glob("bad_batch*.json")
    report = json.loads(file.read_text())
    assert report["samples_of_each_row"] == [["sample-5"]] and "loss" in report["not_finite"]


def test_data_that_ends_too_early_is_an_error(tmp_path):
    with pytest.raises(RunError, match="ended after step 3 of 5"):
        _loop(tmp_path, range(3))


def test_a_silent_transfer_is_an_error(tmp_path):
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        _loop(tmp_path, range(5), place=lambda batch: batch)


def _row(step, images=1.0, **norms):
    return {"step": step, "images": images, **{f"gradient/{path}": norm for path, norm in norms.items()}}


def test_a_leaf_without_gradient_is_named_at_step_one():
    check = GradientCheck(is_late=lambda path: False, is_unused=lambda path: False, expects_images=True)
    with pytest.raises(RunError, match="1 of 2 trainable arrays have got no gradient: dead"):
        check.see(_row(1, alive=0.5, dead=0.0))


def test_late_leaves_have_until_step_three():
    check = GradientCheck(is_late=lambda path: path == "lora_a", is_unused=lambda path: False, expects_images=True)
    check.see(_row(1, lora_a=0.0, lora_b=1.0))
    check.see(_row(2, lora_a=0.0, lora_b=1.0))
    with pytest.raises(RunError, match=r"After step 3.*lora_a"):
        check.see(_row(3, lora_a=0.0, lora_b=1.0))


def test_leaves_that_a_task_never_reaches_are_left_alone():
    check = GradientCheck(is_late=lambda path: False, is_unused=lambda path: path == "codes", expects_images=False)
    for step in range(1, 4):
        check.see(_row(step, codes=0.0, words=1.0))


def test_leaves_behind_images_wait_for_the_first_batch_with_images():
    check = GradientCheck(is_late=lambda path: False, is_unused=lambda path: False, expects_images=True)
    check.see(_row(1, images=0.0, connector=0.0, decoder=1.0))
    with pytest.raises(RunError, match="connector"):
        check.see(_row(2, images=3.0, connector=0.0, decoder=0.0))
    resumed = GradientCheck(is_late=lambda path: False, is_unused=lambda path: False, expects_images=True)
    resumed.see(_row(7, connector=0.0))  # a run resumed later has shown it already
