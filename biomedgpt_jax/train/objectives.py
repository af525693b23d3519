"""What a training minimises, as functions of hidden states and batch; one is chosen when the step is built.

Axis letters: b rows, s tokens of a row, d model width, v vocabulary, c words that occur in answers, n nodes of a trie.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from biomedgpt_jax.train.losses import Sums, cross_entropy, token_losses

Arrays = Mapping[str, Any]  # a batch
# head [d v], hidden [b s d], the batch or a part of it, number of updates made -> its sums
Objective = Callable[[jax.Array, jax.Array, Arrays, jax.Array], Sums]


def all_words(*, chunk_size: int, label_smoothing: float, z_loss: float, vocab_size: int | None) -> Objective:
    """Cross-entropy over the whole vocabulary, every position by its weight; arguments of `cross_entropy`."""

    def objective(head: jax.Array, hidden: jax.Array, batch: Arrays, step: jax.Array) -> Sums:
        return cross_entropy(
            head,
            hidden,
            batch["targets"],
            batch["loss_weights"],
            chunk_size=chunk_size,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            vocab_size=vocab_size,
        )

    return objective


def smoothing_over_others(epsilon: float, vocab_size: int) -> float:
    """`label_smoothing` for fairseq's: there each of the v - 1 other words gets epsilon / (v - 1), here all v share."""
    return epsilon * vocab_size / (vocab_size - 1)


def per_token(objective: Objective) -> Objective:
    """Divided by the number of tokens that have a weight, not by their weights: a weight of 2 counts a loss twice.

    So do the official scripts; the weights of a batch may make it a sum of means (data/pair_pipeline.py).
    """

    def divided(head: jax.Array, hidden: jax.Array, batch: Arrays, step: jax.Array) -> Sums:
        sums = objective(head, hidden, batch, step)
        tokens = jnp.sum(batch["loss_weights"] != 0).astype(jnp.float32)
        return replace(sums, correct=sums.correct * tokens / jnp.maximum(sums.weight, 1e-6), weight=tokens)

    return divided


def lowest_losses(ratio: float, after: int, *, chunk_size: int, label_smoothing: float, vocab_size: int) -> Objective:
    """As `all_words`, but after `after` updates the share `ratio` of the tokens, of the highest loss, is left out.

    Of each part of a batch the nearest whole number of tokens below is kept; a second pass over the head finds them.
    """
    plain = all_words(chunk_size=chunk_size, label_smoothing=label_smoothing, z_loss=0.0, vocab_size=vocab_size)

    def objective(head: jax.Array, hidden: jax.Array, batch: Arrays, step: jax.Array) -> Sums:
        counted = batch["loss_weights"] != 0
        kept = jax.lax.cond(step >= after, lambda: counted & low(head, hidden, batch, counted), lambda: counted)
        return plain(head, hidden, {**batch, "loss_weights": batch["loss_weights"] * kept}, step)

    def low(head: jax.Array, hidden: jax.Array, batch: Arrays, counted: jax.Array) -> jax.Array:
        losses = token_losses(
            head,
            hidden,
            jnp.where(counted, batch["targets"], 0),
            chunk_size=chunk_size,
            label_smoothing=label_smoothing,
            vocab_size=vocab_size,
        )
        order = jnp.argsort(jnp.where(counted, losses, jnp.inf).ravel())
        rank = jnp.argsort(order).reshape(counted.shape)
        return rank < jnp.floor(jnp.sum(counted) * jnp.float32(1 - ratio))

    return objective


def allowed_words(
    words: Int[np.ndarray, " c"], following: Int[np.ndarray, "n c"], *, label_smoothing: float
) -> Objective:
    """Cross-entropy over the words that may come next in one of the allowed answers.

    Softmax and smoothing see those words alone; each other allowed one gets label_smoothing / (their number - 1).

    Args:
        words: vocabulary ids.
        following: -1 where a word may not follow a node of the answers' trie; `answer_nodes` of a batch are such.
    """
    bits = np.packbits(following >= 0, axis=-1)  # a part of the compiled program, where it must be small

    def objective(head: jax.Array, hidden: jax.Array, batch: Arrays, step: jax.Array) -> Sums:
        weights, targets = batch["loss_weights"], batch["targets"]
        counted = weights != 0
        logits = jnp.einsum("bsd,dc->bsc", hidden, head[:, words], preferred_element_type=jnp.float32)
        is_allowed = (
            jnp.unpackbits(jnp.asarray(bits)[jnp.maximum(batch["answer_nodes"], 0)], axis=-1, count=len(words)) > 0
        )
        is_allowed |= ~counted[..., None]  # never nothing, which has no logarithm
        logits = jnp.where(is_allowed, logits, -jnp.inf)
        log_probabilities = jnp.where(is_allowed, jax.nn.log_softmax(logits, axis=-1), 0.0)
        is_target = targets[..., None] == words
        target = jnp.sum(jnp.where(is_target, log_probabilities, 0.0), axis=-1)
        others = jnp.sum(is_allowed, axis=-1) - 1
        each = jnp.where(others > 0, label_smoothing / (others + 1e-6), 0.0)
        losses = -(1 - label_smoothing - each) * target - each * jnp.sum(log_probabilities, axis=-1)
        # A target that is not allowed is a mistake of the data, and must not pass for a loss of zero.
        is_possible = jnp.any(is_target & is_allowed, axis=-1)
        losses = jnp.where(counted, jnp.where(is_possible, losses, jnp.inf), 0.0)
        hits = jnp.take(words, jnp.argmax(logits, axis=-1)) == targets
        return Sums(
            loss=jnp.sum(weights * losses),
            z_loss=jnp.zeros(()),
            correct=jnp.sum(weights * hits),
            weight=jnp.sum(weights),
        )

    return objective
