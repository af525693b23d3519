"""What BiomedGPT's decoder remembers between tokens.

Axis letters: l layers, b sources, r rows (b times the beams of each source), c places of the cache, n places of a
source, h heads, k head width, m kinds of targets (text, and codes where the batch has any).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

KeysValues = tuple[jax.Array, jax.Array]


class PairCache(NamedTuple):
    """Keys and values are those of one or several runs of layers, in order.

    Row i * beams + j is beam j of source i. What all beams of a source read is there once.
    """

    own: tuple[KeysValues, ...]  # [l r h c k], of the target so far
    lengths: jax.Array  # int32 [r], filled places of each row
    source: tuple[KeysValues, ...]  # [l b h n k]
    mask: jax.Array  # bool [b n]
    own_bias: jax.Array  # float32 [m h c c], all layers' part
    source_bias: jax.Array  # float32 [m h c n]
    codes: jax.Array | None  # bool [b], where the batch has targets of codes

    @property
    def beams(self) -> int:
        return self.lengths.shape[0] // self.mask.shape[0]

    def widen(self, beams: int) -> "PairCache":
        """Each row becomes so many, side by side."""
        own = jax.tree.map(lambda each: jnp.repeat(each, beams, axis=1), self.own)
        return self._replace(own=own, lengths=jnp.repeat(self.lengths, beams))

    def take(self, rows: Int[Array, " r"]) -> "PairCache":
        """The cache in which each row is what row `rows[i]` was; both belong to the same source."""
        own = jax.tree.map(lambda each: jnp.take(each, rows, axis=1), self.own)
        return self._replace(own=own, lengths=self.lengths[rows])

    def rewind(self, lengths: Int[Array, " r"]) -> "PairCache":
        """Forgets the words of each row from place `lengths` on: the next one is written there."""
        return self._replace(lengths=lengths)
