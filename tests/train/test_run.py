"""Whole runs of the toy in this process: what a run leaves behind, and when it must fail."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from biomedgpt_jax.core.errors import RunError
from tests.train.toy import toy_model
from tests.train.toy_run import packed_data, train_toy


def _rows(workdir):
    return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def _saved_steps(workdir):
    return sorted(int(path.name) for path in (Path(workdir) / "checkpoints").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, train_toy(workdir, total_steps=40, save_every=15, evaluate_every=20)


def test_a_run_learns_and_leaves_metrics_checkpoints_and_base(finished):
    workdir, outcome = finished
    assert outcome.finished and outcome.step == 40
    losses = [row["loss"] for row in _rows(workdir) if "loss" in row]
    assert len(losses) == 40 and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    held = {row["step"]: row["heldout/loss"] for row in _rows(workdir) if "heldout/loss" in row}
    assert list(held) == [0, 20, 40] and len(set(held.values())) == 3
    assert _saved_steps(workdir) == [30, 40]
    assert len(list((workdir / "base").iterdir())) == 1


def test_the_same_command_again_does_nothing(finished):
    workdir, outcome = finished
    before = (workdir / "metrics.jsonl").read_text()
    again = train_toy(workdir, total_steps=40, save_every=15, evaluate_every=20)
    assert again.finished and again.step == 40
    assert (workdir / "metrics.jsonl").read_text() == before
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.state), jax.device_get(outcome.state))


def test_a_run_goes_on_to_the_same_losses_on_another_mesh(finished, tmp_path):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "40")
    outcome = train_toy(tmp_path / "moved", total_steps=40, save_every=15, mesh_shape=(2, 2))
    kernel = outcome.state.trainable["decoder"]["lm_head"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(("fsdp", "context"), "tensor") and len(kernel.addressable_shards) == 4
    losses, expected = (
        {row["step"]: row["loss"] for row in _rows(folder) if "loss" in row} for folder in (tmp_path / "moved", workdir)
    )
    assert list(losses) == list(range(1, 41))
    np.testing.assert_allclose([*losses.values()], [*expected.values()], rtol=1e-5)


def test_a_poisoned_batch_stops_the_run_and_is_written_down(tmp_path):
    samples = [batch["samples"] for batch, _ in zip(packed_data(), range(12), strict=False)]
    poisoned = int(samples[7][2][0])  # met for the first time at step 8, which is no logging step
    first = next(step for step, rows in enumerate(samples, 1) if poisoned in rows)
    with pytest.raises(RunError, match=f"Step {first}: loss"):
        train_toy(tmp_path, total_steps=12, save_every=1 if first == 1 else first - 1, poisoned=poisoned)
    report = json.loads((tmp_path / f"bad_batch_step_{first}_process_0.json").read_text())
    named = [name for row in report["samples_of_each_row"] for name in row]
    assert f"sample-{poisoned}" in named
    assert sorted(named) == sorted(f"sample-{n}" for row in samples[first - 1] for n in row if n >= 0)
    assert _saved_steps(tmp_path) == [first - 1]
    assert [row["step"] for row in _rows(tmp_path)] == list(range(1, first))


def test_a_trainable_part_that_the_loss_does_not_reach_is_named(tmp_path):
    whole = toy_model()

    def cut_off(params, batch):
        connector = jax.tree.map(jax.lax.stop_gradient, params["connector"])
        return whole.forward(params | {"connector": connector}, batch)

    with pytest.raises(RunError, match=r"2 of 7 trainable arrays have got no gradient: connector/bias, connector"):
        train_toy(tmp_path, total_steps=4, model=replace(whole, forward=cut_off))
    assert not _saved_steps(tmp_path)


def test_frozen_weights_that_change_are_found(tmp_path, monkeypatch):
    import biomedgpt_jax.train.run as run_module

    def melting(model, optimizer, settings):
        step = make_train_step(model, optimizer, settings)

        def melted(state, batch):
            state, metrics = step(state, batch)
            return replace(state, frozen=jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), state.frozen)), metrics

        return melted

    make_train_step = run_module.make_train_step
    monkeypatch.setattr(run_module, "make_train_step", melting)
    with pytest.raises(RunError, match="frozen parameters changed"):
        train_toy(tmp_path, total_steps=2)
