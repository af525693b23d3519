"""The trie of a closed list of answers on the device: what may be said next, under jit.

Axis letters: r rows, c distinct words of all answers, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.trie import ROOT, Trie


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrieTable:
    """`data.trie.Trie` as device arrays; place it once for all batches."""

    words: jax.Array  # int32 [c], ascending
    next: jax.Array  # int16 or int32 [nodes c]
    stops: jax.Array  # int32, the words that end an answer
    longest: int = field(metadata={"static": True})  # words of the longest answer, without the one that ends it

    def start(self, rows: int) -> jax.Array:
        """The node of rows that have said nothing, int32 [r]."""
        return jnp.full(rows, ROOT, jnp.int32)

    def allowed(self, nodes: jax.Array, vocab: int) -> jax.Array:
        """Bool [r v] for int32 [r]: the words that follow in the trie; off it, only those that end an answer."""
        inside = (nodes >= 0) & (nodes < self.next.shape[0])
        follows = (self.next[jnp.where(inside, nodes, ROOT)] >= 0) & inside[:, None]  # r c
        allowed = jnp.zeros((len(nodes), vocab), bool).at[:, self.words].set(follows)
        return allowed.at[:, self.stops].max(~inside[:, None])

    def follow(self, nodes: jax.Array, words: jax.Array) -> jax.Array:
        """The node after each row's word, int32 [r] for int32 [r]; -1 off the trie."""
        inside = (nodes >= 0) & (nodes < self.next.shape[0])
        column = jnp.searchsorted(self.words, words).clip(max=len(self.words) - 1)
        after = self.next[jnp.where(inside, nodes, ROOT), column].astype(jnp.int32)
        return jnp.where(inside & (self.words[column] == words), after, -1)


def place_trie(trie: Trie, *, stop_ids: Sequence[int], vocab_size: int) -> TrieTable:
    """The trie on the device.

    Raises:
        RunError: a word is outside the vocabulary, or an answer does not end with one of `stop_ids`, or has one
            before its end.
    """
    check_words(trie, vocab_size)
    for index, (*words, last) in enumerate(trie.answers):
        if last not in stop_ids or any(word in stop_ids for word in words):
            raise RunError(
                f"answer {index} of the trie, ids {[*words, last]}, must end with a stop word, one of "
                f"{list(stop_ids)}, and have none before. Build the trie from answers that end so"
            )
    stops = jnp.array(stop_ids, jnp.int32)
    return TrieTable(jnp.asarray(trie.words), jnp.asarray(trie.next), stops, trie.longest - 1)


def check_words(trie: Trie, vocab_size: int) -> None:
    """Raises RunError where the trie has a word outside the vocabulary."""
    if trie.words[-1] >= vocab_size:
        index = next(i for i, answer in enumerate(trie.answers) if max(answer) >= vocab_size)
        outside = int(np.count_nonzero(trie.words >= vocab_size))
        raise RunError(
            f"{outside} words of the trie are outside the vocabulary of {vocab_size}, the first in answer {index}: "
            f"{max(trie.answers[index])}. Build the trie with the model's own tokenizer"
        )
