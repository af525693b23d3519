import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from biomedgpt_jax.train.losses import cross_entropy

ROWS, LENGTH, WIDTH, WORDS = 3, 13, 8, 29


def _inputs():
    keys = jax.random.split(jax.random.key(7), 4)
    hidden = jax.random.normal(keys[0], (ROWS, LENGTH, WIDTH))
    kernel = jax.random.normal(keys[1], (WIDTH, WORDS))
    targets = jax.random.randint(keys[2], (ROWS, LENGTH), 0, WORDS)
    weights = (jax.random.uniform(keys[3], (ROWS, LENGTH)) < 0.4).astype(jnp.float32)
    return hidden, kernel, targets, weights


def _ours(hidden, kernel, targets, weights, *, chunk_size=5, label_smoothing=0.0, z_loss=0.0):
    return cross_entropy(
        kernel,
        hidden,
        targets,
        weights,
        chunk_size=chunk_size,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )


def _whole(hidden, kernel, targets, weights, label_smoothing, z_loss):
    logits = jnp.einsum("bsd,dv->bsv", hidden, kernel)
    labels = optax.smooth_labels(jax.nn.one_hot(targets, WORDS), label_smoothing)
    losses = optax.softmax_cross_entropy(logits, labels)
    losses += z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return jnp.sum(weights * losses)


@pytest.mark.parametrize("chunk_size", [1, 5, 13, 64])
@pytest.mark.parametrize(("label_smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.1, 1e-2)])
def test_value_and_gradient_equal_optax(chunk_size, label_smoothing, z_loss):
    hidden, kernel, targets, weights = _inputs()
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    ours = jax.value_and_grad(
        lambda h, k: _ours(h, k, targets, weights, chunk_size=chunk_size, **options).loss, (0, 1)
    )(hidden, kernel)
    theirs = jax.value_and_grad(lambda h, k: _whole(h, k, targets, weights, **options), (0, 1))(hidden, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


def test_sums_count_weights_and_hits():
    hidden, kernel, targets, weights = _inputs()
    sums = _ours(hidden, kernel, targets, weights, z_loss=1e-2)
    logits = np.einsum("bsd,dv->bsv", hidden, kernel)
    assert sums.weight == weights.sum()
    assert sums.correct == ((logits.argmax(-1) == targets) * weights).sum()
    np.testing.assert_allclose(sums.z_loss, 1e-2 * np.sum(weights * jax.nn.logsumexp(logits, axis=-1) ** 2), rtol=1e-6)


def test_masked_positions_add_nothing_whatever_they_hold():
    hidden, kernel, targets, weights = _inputs()
    off = weights == 0
    dirty = jnp.where(off[..., None], jnp.inf, hidden)
    ignored = jnp.where(off, -100, targets)

    def run(h, t):
        return jax.value_and_grad(lambda h, k: _ours(h, k, t, weights, z_loss=1e-2).loss, (0, 1))(h, kernel)

    for a, b in zip(jax.tree.leaves(run(dirty, ignored)), jax.tree.leaves(run(hidden, targets)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_logits_of_the_whole_sequence_never_exist():
    hidden, kernel, targets, weights = _inputs()
    grad = jax.jit(jax.grad(lambda h: _ours(h, kernel, targets, weights, chunk_size=3).loss))
    compiled = grad.lower(hidden).compile().as_text()
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(rf"f32\[([\d,]+,{WORDS})\]", compiled)}
    assert (1, 3 * ROWS, WORDS) in shapes
    assert max(math.prod(shape) for shape in shapes) == 3 * ROWS * WORDS


def test_chunks_without_a_supervised_position_are_skipped():
    hidden, kernel, targets, _ = _inputs()
    weights = jnp.zeros((ROWS, LENGTH)).at[0, 2].set(1).at[1, jnp.array([0, 12])].set(1)
    # What a chunk that is not skipped would spread over its sums.
    dirty = hidden.at[2].set(jnp.nan)
    run = jax.jit(jax.value_and_grad(lambda h, k: _ours(h, k, targets, weights, chunk_size=2).loss, (0, 1)))
    found, gradients = run(dirty, kernel)
    expected, same = jax.value_and_grad(lambda h, k: _whole(h, k, targets, weights, 0.0, 0.0), (0, 1))(hidden, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for a, b in zip(gradients, same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
