"""The answers of a closed list as a prefix tree: which words may follow which, as one dense table.

Axis letters: n answers, c distinct words of all answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from biomedgpt_jax.data.errors import DataError

ROOT = 0


@dataclass(frozen=True, eq=False)
class Trie:
    """A node stands for the words said so far. The nodes after which a word still follows are the rows of `next`.

    Answer i ends in node `len(next) + i`, which has no row. 4,092 answers of about five words each out of 2,100,
    which is the size of PathVQA's list, have some 15,000 rows: 66 MB in int16.
    """

    words: np.ndarray  # int32 [c], vocabulary ids that occur, ascending
    next: np.ndarray  # int16 where it fits, else int32 [nodes c]: the node after this word, -1 where it may not follow
    answers: tuple[tuple[int, ...], ...]  # as given, each with the word that ends it

    @property
    def nbytes(self) -> int:
        return self.words.nbytes + self.next.nbytes

    @property
    def longest(self) -> int:
        """Words of the longest answer, with the one that ends it."""
        return max(len(answer) for answer in self.answers)

    def nodes(self, answer: Sequence[int]) -> np.ndarray:
        """The node before each word of an answer, int32 [words]: its row of `next` says what may stand there.

        Raises:
            DataError: it is none of the answers.
        """
        index = self._index.get(tuple(answer))
        if index is None:
            raise DataError(
                f"an answer of {len(answer)} words (ids {list(answer)}) is none of the list's {len(self.answers)} "
                "answers. Add it to the list, or leave its sample out"
            )
        node, path = ROOT, []
        for column in np.searchsorted(self.words, self.answers[index]):
            path.append(node)
            node = int(self.next[node, column])
        return np.array(path, np.int32)

    @cached_property
    def _index(self) -> dict[tuple[int, ...], int]:
        return {answer: index for index, answer in enumerate(self.answers)}


def build_trie(answers: Sequence[Sequence[int]]) -> Trie:
    """The trie of answers as vocabulary ids, each with the word that ends it (</s>).

    Raises:
        DataError: there is no answer, one is empty or has a negative id, two are the same, or one begins another
            (which means that it has no ending word).
    """
    said = tuple(tuple(int(word) for word in answer) for answer in answers)
    if not said:
        raise DataError("a trie of answers needs at least one answer, the list is empty")
    steps: list[dict[int, int]] = [{}]  # of each node: word -> node, or the answer that ends there as -1 - index
    for index, answer in enumerate(said):
        if not answer or min(answer) < 0:
            raise DataError(f"answer {index} of the list must be ids >= 0, at least one; found {list(answer)}")
        node = ROOT
        for word in answer[:-1]:
            following = steps[node].setdefault(word, len(steps))
            if following < 0:
                raise _begins(-1 - following, index)
            if following == len(steps):
                steps.append({})
            node = following
        taken = steps[node].setdefault(answer[-1], -1 - index)
        if taken >= 0:
            raise _begins(index, next(i for i in range(index) if said[i][: len(answer)] == answer))
        if taken != -1 - index:
            raise DataError(f"answers {-1 - taken} and {index} of the list are the same ids; keep one of them")
    return _dense(steps, said)


def _dense(steps: list[dict[int, int]], answers: tuple[tuple[int, ...], ...]) -> Trie:
    words = np.unique([word for answer in answers for word in answer]).astype(np.int32)
    column = {int(word): index for index, word in enumerate(words)}
    total = len(steps) + len(answers)
    table = np.full((len(steps), len(words)), -1, np.int16 if total <= np.iinfo(np.int16).max else np.int32)
    for node, following in enumerate(steps):
        for word, target in following.items():
            table[node, column[word]] = target if target >= 0 else len(steps) - 1 - target
    return Trie(words, table, answers)


def _begins(short: int, long: int) -> DataError:
    return DataError(
        f"answer {short} of the list is the beginning of answer {long}: nothing says where it ends. "
        "End every answer with the same word (</s>), which stands nowhere else"
    )
