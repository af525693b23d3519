"""Masked cross-entropy over a large vocabulary without ever holding a batch of logits.

Axis letters: b rows, s tokens of a row, n chunks, c tokens of a chunk, d model width, v vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Sufficient statistics of a loss: add them over chunks, micro-batches and hosts; divide once."""

    loss: jax.Array  # float32 [], what is minimised: cross-entropy and z-loss
    z_loss: jax.Array  # float32 [], the part of `loss` that is z-loss
    correct: jax.Array  # float32 [], weight of the positions whose argmax is the target
    weight: jax.Array  # float32 [], the divisor of all of them

    @staticmethod
    def zero() -> "Sums":
        return Sums(*(jnp.zeros((), jnp.float32) for _ in range(4)))

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)


def cross_entropy(
    unembed: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    chunk_size: int,
    label_smoothing: float,
    z_loss: float,
) -> Sums:
    """Sums of the weighted cross-entropy of `unembed(hidden)` against `targets`.

    Chunks run along the sequence, so the batch stays sharded as it is; each chunk's logits are made
    again in the backward pass. A position of weight 0 adds nothing to value or gradient, whatever its
    hidden state and target hold: those of a row come last, and chunks of them alone have no logits.

    Args:
        unembed: hidden [b c d] -> logits [b c v].
        hidden: [b s d], any float type.
        targets: int [b s].
        weights: float [b s].
        chunk_size: c, positions of each row that have logits at a time.
        label_smoothing: the share of the target's probability spread evenly over the vocabulary.
        z_loss: factor of the squared log-normaliser.
    """
    length = hidden.shape[1]
    chunk_size = min(chunk_size, length)
    # A zero in place of a masked state keeps an infinity there from turning into 0 * inf in the gradient.
    hidden = jnp.where(weights[..., None] != 0, hidden, jnp.zeros((), hidden.dtype))
    targets = jnp.where(weights != 0, targets, 0)
    order = jnp.argsort(weights == 0, axis=1, stable=True)
    moved = (_permute(hidden, order), *(jnp.take_along_axis(array, order, 1) for array in (targets, weights)))
    chunks = tuple(_in_chunks(array, chunk_size) for array in moved)

    def add_chunk(sums: Sums, chunk: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Sums, None]:
        states, labels, scale = chunk

        def supervised(states: jax.Array) -> Sums:
            return _chunk_sums(unembed(states), labels, scale, label_smoothing, z_loss)

        added = jax.lax.cond(jnp.any(scale != 0), supervised, lambda _: Sums.zero(), states)
        return sums + added, None

    return jax.lax.scan(jax.checkpoint(add_chunk, prevent_cse=False), Sums.zero(), chunks)[0]


@jax.custom_vjp
def _permute(x: jax.Array, order: jax.Array) -> jax.Array:
    """Positions of each row of x [b s d] in `order` [b s], a permutation of its places.

    The gradient is a gather too; XLA would scatter, one row after another on some backends.
    """
    return jnp.take_along_axis(x, order[..., None], axis=1)


def _permute_forward(x: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _permute(x, order), order


def _permute_backward(order: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    return jnp.take_along_axis(gradient, jnp.argsort(order, axis=1)[..., None], axis=1), None


_permute.defvjp(_permute_forward, _permute_backward)


def _chunk_sums(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, label_smoothing: float, z_loss: float
) -> Sums:
    logits = logits.astype(jnp.float32)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    # A comparison instead of a gather: the vocabulary axis may be sharded.
    is_target = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]
    target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    aim = (1 - label_smoothing) * target_logit
    if label_smoothing:
        aim += label_smoothing * jnp.mean(logits, axis=-1)
    z_penalty = weights * z_loss * jnp.square(log_normaliser)
    return Sums(
        loss=jnp.sum(weights * (log_normaliser - aim) + z_penalty),
        z_loss=jnp.sum(z_penalty),
        correct=jnp.sum(weights * (jnp.argmax(logits, axis=-1) == targets)),
        weight=jnp.sum(weights),
    )


def _in_chunks(array: jax.Array, chunk_size: int) -> jax.Array:
    """[b s ...] -> [n b c ...], the tail filled with zeros."""
    tail = -array.shape[1] % chunk_size
    padded = jnp.pad(array, [(0, 0), (0, tail)] + [(0, 0)] * (array.ndim - 2))
    split = padded.reshape(array.shape[0], -1, chunk_size, *array.shape[2:])
    return jnp.moveaxis(split, 1, 0)
