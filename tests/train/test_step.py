import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths, merge
from biomedgpt_jax.core.placing import place_batch
from biomedgpt_jax.train.step import compile_step, make_train_step
from tests.train.toy import PATCHES, make_toy, toy_batch, toy_settings


def _run(mesh_shape=(1, 1), steps=3, batches=None, settings=None, **toy_options):
    toy = make_toy(mesh_shape, **toy_options)
    step = compile_step(make_train_step(toy.model, toy.optimizer, settings or toy_settings()), toy.abstract, toy.mesh)
    state, history = toy.state(), []
    with jax.set_mesh(toy.mesh):
        for number in range(steps):
            batch = batches[number] if batches else toy_batch(number)
            state, metrics = step(state, place_batch(batch, toy.mesh))
            history.append(jax.device_get(metrics))
    return jax.device_get(state), history, step


@functools.cache
def _one_device():
    """Three steps on one device without accumulation: what the others must equal."""
    return _run()


def _assert_close(ours, theirs, rtol=1e-6):
    for path, leaf in leaf_paths(theirs).items():
        scale = np.abs(leaf).max()
        np.testing.assert_allclose(leaf_paths(ours)[path], leaf, rtol=rtol, atol=rtol * scale, err_msg=path)


def test_loss_and_update_equal_a_plain_build():
    toy, batch = make_toy(), toy_batch()
    params = jax.jit(toy.model.init)(jax.random.key(0))

    def mean_loss(params):
        logits = toy.model.unembed(params, toy.model.forward(params, batch))
        log_normaliser = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
        losses = log_normaliser - picked + 1e-4 * log_normaliser**2
        return jnp.sum(losses * batch["loss_weights"]) / batch["loss_weights"].sum()

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(params)
    metrics = _one_device()[1][0]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    for path, leaf in leaf_paths(gradients).items():
        if not path.startswith("tower"):
            np.testing.assert_allclose(metrics[f"gradient/{path}"], jnp.linalg.norm(leaf), rtol=1e-5)
    assert "gradient/tower/patch_embed/kernel" not in metrics


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_big_batch_with_ragged_weights(parts):
    # The rows' weights differ, so a mean of means would be off by percents.
    big, big_history, _ = _one_device()
    small, small_history, _ = _run(settings=toy_settings(micro_batches=parts))
    _assert_close(small.trainable, big.trainable, rtol=2e-6)
    for a, b in zip(small_history, big_history, strict=True):
        np.testing.assert_allclose(
            [a["loss"], a["accuracy"], a["grad_norm"]], [b["loss"], b["accuracy"], b["grad_norm"]], rtol=1e-6
        )
        assert a["supervised_tokens"] == b["supervised_tokens"]


def test_losses_gradients_and_weights_do_not_depend_on_the_mesh():
    one, one_history, _ = _one_device()
    many, many_history, step = _run((2, 4))
    for a, b in zip(many_history, one_history, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-7, err_msg=name)
    _assert_close(many.trainable, one.trainable, rtol=1e-5)
    assert step._cache_size() == 1  # the first state was laid out like the step's output


def test_accumulation_on_a_mesh_equals_one_device():
    one, _, _ = _one_device()
    many, _, step = _run((4, 2), settings=toy_settings(micro_batches=2))
    _assert_close(many.trainable, one.trainable, rtol=1e-5)
    assert step._cache_size() == 1


def test_frozen_leaves_pass_through_and_have_no_optimizer_state():
    toy = make_toy(trainable=("connector",), frozen_dtype=jnp.bfloat16)
    start = jax.device_get(toy.state())
    end, history, _ = _run(trainable=("connector",), frozen_dtype=jnp.bfloat16)
    for path, leaf in leaf_paths(start.frozen).items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf_paths(end.frozen)[path], leaf)
    moments = [leaf for leaf in jax.tree.leaves(end.opt_state) if leaf.ndim]
    assert len(moments) == 2 * 2
    assert not np.array_equal(end.trainable["connector"]["kernel"], start.trainable["connector"]["kernel"])
    assert [name for name in history[0] if name.startswith("gradient/")] == [
        "gradient/connector/bias",
        "gradient/connector/kernel",
    ]


def test_metrics_count_what_the_batch_holds():
    batch = toy_batch()
    state, history, _ = _run(steps=2, batches=[batch, batch], group_rates={"connector": 4e-2})
    first, second = history
    assert first["tokens"] == (batch["segment_ids"] > 0).sum()
    assert first["supervised_tokens"] == batch["loss_weights"].sum()
    np.testing.assert_allclose(first["padding_share"], (batch["segment_ids"] == 0).mean(), rtol=1e-6)
    assert first["images"] == (batch["image_index"] >= 0).sum() / PATCHES == 4
    assert first["learning_rate/default"] == 0  # the first of three warm-up steps
    np.testing.assert_allclose(second["learning_rate/connector"], 4e-2 / 3, rtol=1e-6)
    np.testing.assert_allclose(second["learning_rate/default"], 1e-2 / 3, rtol=1e-6)
    assert first["update_norm"] == 0 and second["update_norm"] > 0
    total = merge(state.trainable, {})
    squares = sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in jax.tree.leaves(total))
    np.testing.assert_allclose(second["param_norm"], squares**0.5, rtol=1e-6)


def test_a_step_that_is_not_finite_changes_nothing():
    good, bad = toy_batch(0), toy_batch(1)
    toy = make_toy()
    step = compile_step(make_train_step(toy.model, toy.optimizer, toy_settings()), toy.abstract, toy.mesh)
    state, _ = step(toy.state(), place_batch(good, toy.mesh))
    before = jax.device_get(state)
    # The poison sits in a frozen weight, as an overflow in the forward pass would.
    poisoned = jax.tree.map(lambda leaf: leaf * jnp.inf, state.frozen)
    state, metrics = step(
        type(state)(state.step, state.trainable, poisoned, state.opt_state), place_batch(bad, toy.mesh)
    )
    assert not np.isfinite(metrics["loss"]) and state.step == 2
    jax.tree.map(np.testing.assert_array_equal, before.trainable, jax.device_get(state.trainable))
    jax.tree.map(np.testing.assert_array_equal, before.opt_state, jax.device_get(state.opt_state))


def test_uneven_batches_are_refused():
    toy = make_toy((8, 1))
    with pytest.raises(UsageError, match="does not divide over the mesh"):
        place_batch(toy_batch(rows=6), toy.mesh)
    with pytest.raises(UsageError, match="8 rows of a batch do not split into 3"):
        _run(settings=toy_settings(micro_batches=3))
