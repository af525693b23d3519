"""The table of a trie against the list that it was made of, for every beginning and every word."""

import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval.trie_decode import place_trie
from tests.eval.plain_search import following

END, VOCAB = 2, 8
ANSWERS = [[5, 4, END], [5, END], [3, 4, 5, END], [3, 4, 6, 6, END], [6, END]]


def test_every_word_after_every_beginning() -> None:
    table = place_trie(build_trie(ANSWERS), stop_ids=(END, 7), vocab_size=VOCAB)
    begun = sorted({tuple(answer[:length]) for answer in ANSWERS for length in range(len(answer))}, key=len)
    node = {(): int(table.start(1)[0])}
    for said in begun:
        allowed = np.asarray(table.allowed(jnp.array([node[said]]), VOCAB))[0]
        assert np.flatnonzero(allowed).tolist() == sorted(set(following(ANSWERS, [*said])))
        after = np.asarray(table.follow(jnp.full(VOCAB, node[said]), jnp.arange(VOCAB)))
        assert (after[~allowed] == -1).all() and (after[allowed] >= 0).all()
        node |= {(*said, word): int(after[word]) for word in np.flatnonzero(allowed).tolist()}
    assert len(set(node.values())) == len(node) == len(begun) + len(ANSWERS)
    ended = [node[tuple(answer)] for answer in ANSWERS]
    off = jnp.repeat(jnp.array([*ended, -1]), VOCAB)  # nothing may follow but an end
    assert (np.asarray(table.allowed(off, VOCAB)) == np.isin(np.arange(VOCAB), [END, 7])).all()
    assert (np.asarray(table.follow(off, jnp.arange(len(off)) % VOCAB)) == -1).all()
