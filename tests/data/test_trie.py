"""The trie says exactly which words may follow, and knows where each answer ends."""

import numpy as np
import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.trie import ROOT, build_trie

END = 2
ANSWERS = [[7, 5, END], [7, END], [9, 7, 5, END], [7, 5, 5, END]]


def test_every_answer_can_be_walked_and_nothing_else() -> None:
    trie = build_trie(ANSWERS)
    assert trie.words.tolist() == [END, 5, 7, 9]

    def walked(node: int, said: tuple[int, ...]) -> list[tuple[int, ...]]:
        if node >= len(trie.next):
            assert trie.answers[node - len(trie.next)] == said
            return [said]
        ways = [(word, after) for word, after in zip(trie.words, trie.next[node], strict=True) if after >= 0]
        return [whole for word, after in ways for whole in walked(int(after), (*said, int(word)))]

    assert sorted(walked(ROOT, ())) == sorted(tuple(answer) for answer in ANSWERS)
    assert len(trie.next) == 7  # "", 7, 7 5, 9, 9 7, 9 7 5, 7 5 5: beginnings are shared
    assert trie.next.dtype == np.int16 and trie.longest == 4


def test_the_nodes_of_an_answer_allow_its_words() -> None:
    trie = build_trie(ANSWERS)
    nodes = trie.nodes([7, 5, END])
    assert nodes.dtype == np.int32 and nodes[0] == ROOT
    allowed = [trie.words[trie.next[node] >= 0].tolist() for node in nodes]
    assert allowed == [[7, 9], [END, 5], [END, 5]]
    with pytest.raises(DataError, match="none of the list's 4 answers"):
        trie.nodes([7, 5])


def test_a_list_like_pathvqas_fits() -> None:
    rng = np.random.default_rng(0)
    words = (rng.zipf(1.3, (20_000, 8)) % 3_500 + 4).tolist()
    lists = dict.fromkeys(tuple(row[:length]) for row, length in zip(words, rng.integers(2, 9, 20_000), strict=True))
    trie = build_trie([[*answer, END] for answer in list(lists)[:4_092]])
    assert len(trie.words) > 2_000 and trie.next.dtype == np.int16
    assert trie.nbytes < 100e6
    many = build_trie([[first, second, END] for first in range(3, 203) for second in range(3, 203)])
    assert many.next.dtype == np.int32  # numbers of nodes beyond int16


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "the list is empty"),
        ([[5, END], []], "answer 1 of the list must be ids"),
        ([[5, END], [-1, END]], "answer 1 of the list must be ids"),
        ([[5, END], [6, END], [5, END]], "answers 0 and 2 of the list are the same"),
        ([[5, 6], [5, 6, END]], "answer 0 of the list is the beginning of answer 1"),
        ([[9, END], [5, 6, END], [5, 6]], "answer 2 of the list is the beginning of answer 1"),
    ],
)
def test_bad_lists_are_refused(answers: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_trie(answers)
