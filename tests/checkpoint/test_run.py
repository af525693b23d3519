import os
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.checkpoint.base import check_frozen, save_base
from biomedgpt_jax.checkpoint.run import RunCheckpoints
from biomedgpt_jax.checkpoint.start import from_run, from_weights, starting_params
from biomedgpt_jax.checkpoint.weights import save_weights
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import leaf_paths, merge
from biomedgpt_jax.core.placing import place_batch
from biomedgpt_jax.train.step import compile_step, make_train_step
from tests.disk import mounted
from tests.train.toy import make_toy, toy_batch, toy_settings


def _numbers():
    return grain.MapDataset.range(100).shuffle(seed=1).repeat().to_iter_dataset()


def _trained(toy, steps=2):
    step = compile_step(make_train_step(toy.model, toy.optimizer, toy_settings()), toy.abstract, toy.mesh)
    state = toy.state()
    with jax.set_mesh(toy.mesh):
        for number in range(steps):
            state, _ = step(state, place_batch(toy_batch(number), toy.mesh))
    return state


def _saved(workdir, toy, steps=2):
    state, data = _trained(toy, steps), iter(_numbers())
    seen = [next(data) for _ in range(steps)]
    with RunCheckpoints(workdir, keep=2) as checkpoints:
        base = save_base(workdir, state.frozen)
        checkpoints.save(steps, state, data, config={"size": "toy"}, base=base)
    return state, [int(next(data)) for _ in range(3)], base, seen


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the connector with a frozen bfloat16 rest: (workdir, toy, state, next data, base)."""
    workdir = tmp_path_factory.mktemp("run")
    toy = make_toy(trainable=("connector",), frozen_dtype=jnp.bfloat16)
    state, following, base, _ = _saved(workdir, toy)
    return workdir, toy, state, following, base


def test_state_data_and_base_come_back_on_another_mesh(run):
    workdir, _, state, following, base = run
    other = make_toy((4, 2), trainable=("connector",), frozen_dtype=jnp.bfloat16)
    data = iter(_numbers())
    with RunCheckpoints(workdir, keep=2) as checkpoints:
        assert checkpoints.latest() == 2
        restored, found = checkpoints.restore(2, other.abstract, data)
        assert checkpoints.record(2)["config"] == {"size": "toy"}
    assert found == base and restored.step == 2
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == jax.tree.map(
        lambda leaf: leaf.sharding, other.abstract
    )
    assert [int(next(data)) for _ in range(3)] == following


def test_frozen_base_is_written_once_and_step_folders_hold_only_what_changes(run):
    workdir, _, state, _, base = run
    assert [folder.name for folder in (workdir / "base").iterdir()] == [base]
    assert save_base(workdir, state.frozen) == base
    stored = {path.name for path in (workdir / "checkpoints" / "2").iterdir()}
    assert {"trainable", "optimizer", "data", "record"} <= stored
    check_frozen(state.frozen, base)
    changed = jax.tree.map(lambda leaf: leaf * 1.01, state.frozen)
    with pytest.raises(RunError, match=f"expected hash {base}"):
        check_frozen(changed, base)


def test_old_steps_leave_and_unfinished_ones_are_ignored(tmp_path):
    toy = make_toy(trainable=("connector",))
    state, data = toy.state(), iter(_numbers())
    base = save_base(tmp_path, state.frozen)
    with RunCheckpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, data, config={}, base=base)
            checkpoints.save(step, state, data, config={}, base=base)  # the same step twice is one
    unfinished = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "trainable"
    unfinished.mkdir(parents=True)
    with RunCheckpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() == 3
        checkpoints.save(4, state, data, config={}, base=base)
    stored = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert stored == ["3", "4"]


def test_checkpoint_of_another_tuning_is_refused_by_name(run):
    workdir, *_ = run
    other = make_toy(trainable=("connector", "decoder"))
    with (
        RunCheckpoints(workdir, keep=2) as checkpoints,
        pytest.raises(RunError, match=r"checkpoints/2: \d+ expected keys are missing, first optimizer"),
    ):
        checkpoints.restore(2, other.abstract, iter(_numbers()))


def test_data_of_another_pipeline_is_refused(run):
    workdir, toy, *_ = run
    other = iter(grain.MapDataset.range(9).to_iter_dataset().batch(3).mp_prefetch())
    with (
        RunCheckpoints(workdir, keep=2) as checkpoints,
        pytest.raises(RunError, match="the saved position in the data does not fit"),
    ):
        checkpoints.restore(2, toy.abstract, other)


def _whole(toy):
    return merge(toy.abstract.trainable, toy.abstract.frozen)


def test_first_source_wins_then_the_next_then_fresh(run, tmp_path):
    workdir, _, state, _, _ = run
    toy = make_toy((2, 4), trainable=("connector", "decoder"))
    imported = {"kernel": jnp.full((12, 16), 7.0)}
    save_weights(tmp_path / "tower", imported, {})
    params, origin = starting_params(
        _whole(toy),
        [from_weights(tmp_path / "tower", prefix="tower/patch_embed"), from_run(workdir)],
        init=toy.model.init,
        key=jax.random.key(1),
        may_be_fresh=lambda path: False,
    )
    assert (np.asarray(params["tower"]["patch_embed"]["kernel"]) == 7).all()
    np.testing.assert_array_equal(params["connector"]["kernel"], state.trainable["connector"]["kernel"])
    head = params["decoder"]["lm_head"]["kernel"]
    assert (
        head.dtype == jnp.float32
        and head.sharding.spec == toy.abstract.trainable["decoder"]["lm_head"]["kernel"].sharding.spec
    )
    np.testing.assert_array_equal(head, state.frozen["decoder"]["lm_head"]["kernel"].astype(jnp.float32))
    assert origin["connector/bias"].endswith("step 2")
    assert origin["tower/patch_embed/kernel"].endswith("tower")


def test_only_allowed_leaves_are_fresh(tmp_path):
    toy = make_toy(trainable=("connector",))
    whole = jax.jit(toy.model.init)(jax.random.key(5))
    save_weights(tmp_path / "w", {"decoder": whole["decoder"], "tower": whole["tower"]}, {})
    options = {"init": toy.model.init, "key": jax.random.key(5)}
    params, origin = starting_params(
        _whole(toy),
        [from_weights(tmp_path / "w")],
        may_be_fresh=lambda path: path.startswith("connector"),
        **options,
    )
    np.testing.assert_array_equal(params["connector"]["kernel"], whole["connector"]["kernel"])
    assert {path for path, name in origin.items() if name == "fresh initialisation"} == {
        path for path in leaf_paths(whole) if path.startswith("connector")
    }
    with pytest.raises(RunError, match="2 parameters come from nowhere, first connector/bias"):
        starting_params(_whole(toy), [from_weights(tmp_path / "w")], may_be_fresh=lambda _: False, **options)
    save_weights(tmp_path / "more", {"adapter": jnp.ones(3)}, {})
    with pytest.raises(RunError, match="more: 1 arrays have no place in the model, first adapter"):
        starting_params(_whole(toy), [from_weights(tmp_path / "more")], may_be_fresh=lambda _: True, **options)
    with pytest.raises(RunError, match="not the workdir of a run"):
        from_run(tmp_path / "w")


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", 4096):
        yield tmp_path / "disk"


@pytest.mark.parametrize("left", [40_000, 0], ids=["no room for the arrays", "no room at all"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_full_disk_names_the_last_whole_step_and_leaves_it_whole(run, small_disk, left):
    _, toy, state, following, base = run
    workdir, data = small_disk / "run", iter(_numbers())
    [next(data) for _ in range(2)]
    config = {"size": "toy"}
    with pytest.raises(RunError) as refused, RunCheckpoints(workdir, keep=2) as checkpoints:
        save_base(workdir, state.frozen)
        checkpoints.save(2, state, data, config=config, base=base)
        checkpoints.wait()
        free = os.statvfs(small_disk)
        (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - left))
        checkpoints.save(3, state, data, config=config, base=base)
        for _ in range(500):
            checkpoints.check()
            time.sleep(0.02)
    message = str(refused.value)
    assert f"{workdir}" in message and "no space left on device. Free space there" in message
    assert "Checkpoints: step 2 is the last whole one; the run goes on from there." in message
    (small_disk / "filler").unlink()
    data = iter(_numbers())
    with RunCheckpoints(workdir, keep=2) as checkpoints:
        assert checkpoints.latest() == 2
        restored, _ = checkpoints.restore(2, toy.abstract, data)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))
        checkpoints.save(3, state, data, config=config, base=base)
    assert [int(next(data)) for _ in range(3)] == following
    with RunCheckpoints(workdir, keep=2, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 3]
