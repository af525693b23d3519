"""Masked cross-entropy over a large vocabulary without ever holding a batch of logits.

Axis letters: b rows, s tokens of a row, p devices that hold different tokens, m tokens of one of them, n chunks,
c tokens of a chunk, d model width, v vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from biomedgpt_jax.core.sharding import parts_of, shard

# Of each device's tokens at the least: what has no target can only be left out by whole chunks.
_CHUNKS = 4


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
    head: Float[Array, "d v"],
    hidden: Float[Array, "b s d"],
    targets: Int[Array, "b s"],
    weights: Float[Array, "b s"],
    *,
    chunk_size: int,
    label_smoothing: float,
    z_loss: float,
    vocab_size: int | None = None,
) -> Sums:
    """Sums of the weighted cross-entropy of the logits `hidden head` against `targets`.

    Each device works through its own tokens in chunks. A position of weight 0 adds nothing to value or gradient,
    whatever its hidden state and target hold; such positions come last, and chunks of them alone are skipped.
    The gradient, which is that of `loss` alone, is made together with the value, so that logits are made once. That
    of the head is summed on each device, and over the devices once, at the end.

    Args:
        head: in the type of `hidden`.
        chunk_size: positions of each row that have logits at a time; fewer where that would make less than 4 chunks.
        label_smoothing: the share of the target's probability spread evenly over the vocabulary.
        z_loss: factor of the squared log-normaliser.
        vocab_size: words that exist; the head's columns behind them have no part in anything. None: all.
    """
    # A zero in place of a masked state keeps an infinity there from turning into 0 * inf in the gradient.
    hidden = jnp.where(weights[..., None] != 0, hidden, jnp.zeros((), hidden.dtype))
    targets = jnp.where(weights != 0, targets, 0)
    aim = _Aim(label_smoothing, z_loss, vocab_size or head.shape[-1])
    # custom_vjp hides the type of what it wraps.
    sums = cast(tuple, _sums(head, hidden, targets, weights, chunk_size, aim))
    return Sums(*sums)


def token_losses(
    head: Float[Array, "d v"],
    hidden: Float[Array, "b s d"],
    targets: Int[Array, "b s"],
    *,
    chunk_size: int,
    label_smoothing: float,
    vocab_size: int,
) -> Float[Array, "b s"]:
    """The cross-entropy of each position, without a gradient; arguments as those of `cross_entropy`."""
    aim = _Aim(label_smoothing, 0.0, vocab_size)
    hidden, head = jax.lax.stop_gradient((hidden, head))
    chunk = min(chunk_size, targets.shape[1])
    padding = -targets.shape[1] % chunk

    def in_chunks(array: jax.Array) -> jax.Array:
        padded = jnp.pad(array, [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(array.shape[0], -1, chunk, *array.shape[2:]), 1, 0)

    def of_chunk(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = _existing(shard(_product("bcd,dv->bcv", part[0], head), "batch", None, "activation_vocab"), aim)
        return jax.nn.logsumexp(logits, axis=-1) - _aimed_at(logits, part[1], aim)

    losses = jax.lax.map(of_chunk, (in_chunks(hidden), in_chunks(targets)))
    return jnp.moveaxis(losses, 0, 1).reshape(targets.shape[0], -1)[:, : targets.shape[1]]


class _Aim(NamedTuple):
    label_smoothing: float
    z_loss: float
    vocab_size: int


class _Tokens(NamedTuple):
    """Some tokens of each device; `weights` is 0 behind the last that counts."""

    states: jax.Array  # [p c d]
    targets: jax.Array  # int [p c]
    weights: jax.Array  # [p c]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _sums(head: Any, hidden: Any, targets: Any, weights: Any, chunk_size: int, aim: _Aim) -> tuple[jax.Array, ...]:
    """The fields of `Sums`."""
    chunks, _ = _in_chunks(hidden, targets, weights, chunk_size)
    heads = _for_each_device(head, chunks)

    def add(sums: Sums, chunk: _Tokens) -> tuple[Sums, None]:
        def count(sums: Sums) -> Sums:
            return sums + _chunk_sums(heads, chunk, aim)[0]

        return jax.lax.cond(_any_counts(chunk), count, lambda sums: sums, sums), None

    return _fields(jax.lax.scan(add, Sums.zero(), chunks)[0])


def _sums_forward(
    head: Any, hidden: Any, targets: Any, weights: Any, chunk_size: int, aim: _Aim
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array | None, jax.Array]]:
    """The same, and the gradients of the loss; a frozen head has none."""
    chunks, order = _in_chunks(hidden.value, targets.value, weights.value, chunk_size)
    heads = _for_each_device(head.value, chunks)

    def add(carry: Any, chunk: _Tokens) -> tuple[Any, jax.Array]:
        def count(carry: Any) -> tuple[Any, jax.Array]:
            sums, d_heads = carry
            added, d_logits = _chunk_sums(heads, chunk, aim)
            d_logits = d_logits.astype(heads.dtype)
            if d_heads is not None:
                d_heads += _product("pcd,pcv->pdv", chunk.states, d_logits).astype(heads.dtype)
            return (sums + added, d_heads), _product("pcv,pdv->pcd", d_logits, heads).astype(chunk.states.dtype)

        return jax.lax.cond(_any_counts(chunk), count, lambda carry: (carry, jnp.zeros_like(chunk.states)), carry)

    start = Sums.zero(), jnp.zeros_like(heads) if head.perturbed else None
    (sums, d_heads), d_states = jax.lax.scan(add, start, chunks)
    d_head = None if d_heads is None else shard(jnp.sum(d_heads, axis=0), "embed", "vocab")
    return _fields(sums), (d_head, _out_of_chunks(d_states, order, hidden.value.shape))


def _sums_backward(
    chunk_size: int, aim: _Aim, gradients: tuple[jax.Array | None, jax.Array], by_sums: Any
) -> tuple[Any, ...]:
    by_loss = by_sums[0]  # the other sums only count
    return (*(None if each is None else (each * by_loss).astype(each.dtype) for each in gradients), None, None)


_sums.defvjp(_sums_forward, _sums_backward, symbolic_zeros=True)


def _chunk_sums(heads: Float[Array, "p d v"], chunk: _Tokens, aim: _Aim) -> tuple[Sums, Float[Array, "p c v"]]:
    """Of one chunk: its sums, and the gradient of their loss by the logits."""
    states, targets, weights = chunk
    logits = shard(_product("pcd,pdv->pcv", states, heads), "parts", None, "activation_vocab")
    logits = _existing(logits, aim)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    z_penalty = weights * aim.z_loss * jnp.square(log_normaliser)
    sums = Sums(
        loss=jnp.sum(weights * (log_normaliser - _aimed_at(logits, targets, aim)) + z_penalty),
        z_loss=jnp.sum(z_penalty),
        correct=jnp.sum(weights * (_likeliest(logits) == targets)),
        weight=jnp.sum(weights),
    )
    pull = weights * (1 + 2 * aim.z_loss * log_normaliser)  # of the normaliser, towards smaller logits
    d_logits = pull[..., None] * jnp.exp(logits - log_normaliser[..., None])
    d_logits -= weights[..., None] * (1 - aim.label_smoothing) * _is_target(logits, targets)
    if aim.label_smoothing:
        d_logits -= weights[..., None] * jnp.where(_exists(logits, aim), aim.label_smoothing / aim.vocab_size, 0.0)
    return sums, d_logits


def _aimed_at(logits: jax.Array, targets: jax.Array, aim: _Aim) -> jax.Array:
    """The mean logit under the smoothed target's probabilities."""
    aimed_at = (1 - aim.label_smoothing) * jnp.sum(jnp.where(_is_target(logits, targets), logits, 0.0), axis=-1)
    if aim.label_smoothing:
        existing = jnp.where(_exists(logits, aim), logits, 0.0)
        aimed_at += aim.label_smoothing * jnp.sum(existing, axis=-1) / aim.vocab_size
    return aimed_at


def _likeliest(logits: jax.Array) -> jax.Array:
    """The argmax over the last axis as two plain reductions: XLA's CPU backend does its own one word at a time."""
    words = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    highest = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(highest, words, logits.shape[-1]), axis=-1)


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    # A comparison instead of a gather: the vocabulary axis may be sharded.
    return jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]


def _existing(logits: jax.Array, aim: _Aim) -> jax.Array:
    """No probability for columns that only pad the head."""
    return jnp.where(_exists(logits, aim), logits, -jnp.inf) if aim.vocab_size < logits.shape[-1] else logits


def _exists(logits: jax.Array, aim: _Aim) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < aim.vocab_size


def _fields(sums: Sums) -> tuple[jax.Array, ...]:
    return sums.loss, sums.z_loss, sums.correct, sums.weight


def _any_counts(chunk: _Tokens) -> jax.Array:
    return jnp.any(chunk.weights != 0)


def _for_each_device(head: Float[Array, "d v"], chunks: _Tokens) -> Float[Array, "p d v"]:
    """A copy of the head beside each device's tokens: brought there once, where a loop would bring it to each chunk."""
    copies = jnp.broadcast_to(head, (chunks.weights.shape[1], *head.shape))
    return shard(copies, "parts", None, "activation_vocab")


def _in_chunks(
    hidden: Float[Array, "b s d"], targets: Int[Array, "b s"], weights: Float[Array, "b s"], chunk_size: int
) -> tuple[_Tokens, Int[Array, "p m"]]:
    """Tokens [n p c ...], on each device those that count first, zeros behind the last; and their order there."""
    arrays = [_by_device(array) for array in (hidden, targets, weights)]
    order = jnp.argsort(arrays[2] == 0, axis=1, stable=True)
    devices, tokens = order.shape
    chunk = min(max(1, chunk_size * hidden.shape[0] // devices), -(-tokens // _CHUNKS))

    def cut(array: jax.Array) -> jax.Array:
        index = order.reshape(*order.shape, *(1 for _ in array.shape[2:]))
        moved = jnp.take_along_axis(array, index, axis=1)
        padded = jnp.pad(moved, [(0, 0), (0, -tokens % chunk)] + [(0, 0)] * (array.ndim - 2))
        split = padded.reshape(devices, -1, chunk, *array.shape[2:])
        return shard(jnp.moveaxis(split, 1, 0), None, "parts", *(None for _ in array.shape[1:]))

    return _Tokens(*map(cut, arrays)), order


def _out_of_chunks(
    chunks: Float[Array, "n p c d"], order: Int[Array, "p m"], shape: tuple[int, ...]
) -> Float[Array, "b s d"]:
    devices, tokens = order.shape
    ordered = jnp.moveaxis(chunks, 0, 1).reshape(devices, -1, shape[-1])[:, :tokens]
    return _to_rows(jnp.take_along_axis(ordered, jnp.argsort(order, axis=1)[..., None], axis=1), shape)


def _by_device(array: jax.Array) -> jax.Array:
    """[b s ...] -> [p m ...]: nothing moves between devices."""
    rows, columns = _shares(array.shape)
    b, s, *rest = array.shape
    blocks = array.reshape(rows, b // rows, columns, s // columns, *rest)
    tokens = jnp.moveaxis(blocks, 2, 1).reshape(rows * columns, -1, *rest)
    return shard(tokens, "parts", *(None for _ in tokens.shape[1:]))


def _to_rows(tokens: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_by_device`."""
    rows, columns = _shares(shape)
    b, s, *rest = shape
    blocks = tokens.reshape(rows, columns, b // rows, s // columns, *rest)
    array = jnp.moveaxis(blocks, 1, 2).reshape(shape)
    return shard(array, "batch", "length", *(None for _ in rest))


def _shares(shape: tuple[int, ...]) -> tuple[int, int]:
    """Into how many parts the mesh splits rows and tokens; one where it does not divide them."""
    rows, columns = parts_of("batch"), parts_of("length")
    return (1 if shape[0] % rows else rows), (1 if shape[1] % columns else columns)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
