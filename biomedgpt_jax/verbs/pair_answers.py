"""How an encoder-decoder answers a batch of questions: greedily, with beams, or by scoring a closed list."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.pair_batches import PairShape
from biomedgpt_jax.data.pair_encoding import EncodedPair
from biomedgpt_jax.data.trie import Trie, build_trie
from biomedgpt_jax.eval.beam import Beams, beam_search
from biomedgpt_jax.eval.candidates import Chosen, plan_walk, score_answers
from biomedgpt_jax.eval.decode import Decoded, Limits, likeliest
from biomedgpt_jax.eval.trie_decode import place_trie

Batch = dict[str, np.ndarray]
Answer = Callable[[Batch], Decoded | Chosen]
SOURCE_STEP, GIVEN_STEP = 64, 32  # lengths of prompts are rounded up to a multiple, so that few shapes are compiled
WALKERS = 4  # rows of the cache for each source while a list is scored


@dataclass(frozen=True)
class Answering:
    """`answers`: the closed list, ids that end with </s>; () is open."""

    method: str  # of METHODS
    beams: Beams
    max_new_tokens: int  # of open answers; one of the list is said whole
    answers: tuple[tuple[int, ...], ...]

    @property
    def room(self) -> int:
        """Tokens that an answer takes at most."""
        return max(map(len, self.answers), default=self.max_new_tokens)

    def described(self) -> dict[str, Any]:
        """What a table of scores must say of it."""
        said: dict[str, Any] = {"method": self.method, "max_new_tokens": self.max_new_tokens}
        if self.method == "beam":
            said |= asdict(self.beams)
        return said | ({"closed_list": len(self.answers)} if self.answers else {})


def answerer(model: ModelFns, params: Params, tokenizer: BiomedGptTokens, how: Answering) -> Answer:
    """The function that answers a batch of prompts. Open answers are words: no image codes, bins or marks.

    Raises:
        RunError: a method that needs a list has none, or a list that the vocabulary does not have.
    """
    trie = build_trie(how.answers) if how.answers else None
    return METHODS[how.method](_Asked(model, params, tokenizer, how, trie))


def prompt_shapes(prompts: list[EncodedPair], places: int, room: int) -> list[PairShape]:
    """The few static shapes that hold all prompts, none longer than the model's `places` of text, of which the decoder
    keeps `room` for an answer.
    """

    def up(length: int, step: int, most: int) -> int:
        return min(-(-length // step) * step, max(most, length))

    return sorted(
        {
            PairShape(up(len(p.source), SOURCE_STEP, places), up(1 + len(p.given), GIVEN_STEP, places - room))
            for p in prompts
        }
    )


@dataclass(frozen=True)
class _Asked:
    model: ModelFns
    params: Params
    tokenizer: BiomedGptTokens
    how: Answering
    trie: Trie | None

    def limits(self, batch: Batch) -> Limits:
        return Limits(
            max_new_tokens=self.how.room,
            stop_ids=(self.tokenizer.eos_id,),
            cache_length=batch["tokens"].shape[1] + self.how.room,
            vocab_limit=self.tokenizer.vocab_size,
            barred=self.tokenizer.unsaid,
        )

    def table(self) -> Any:
        if self.trie is None:
            return None
        return place_trie(self.trie, stop_ids=(self.tokenizer.eos_id,), vocab_size=self.tokenizer.vocab_size)


def _greedy(asked: _Asked) -> Answer:
    table = asked.table()

    def answer(batch: Batch) -> Decoded:
        return likeliest(asked.model, asked.params, batch, asked.limits(batch), table)

    return answer


def _beam(asked: _Asked) -> Answer:
    table = asked.table()

    def answer(batch: Batch) -> Decoded:
        return beam_search(asked.model, asked.params, batch, asked.limits(batch), asked.how.beams, table).best

    return answer


def _candidates(asked: _Asked) -> Answer:
    if asked.trie is None:
        raise UsageError("The method `candidates` scores a closed list of answers, and there is none: name one.")
    answers = tuple(words[:-1] for words in asked.trie.answers)  # without </s>
    walk = plan_walk(asked.trie, walkers=WALKERS, vocab_size=asked.tokenizer.vocab_size)
    table = np.zeros((len(answers), asked.trie.longest), np.int32)
    lengths = np.array([len(words) for words in answers])
    for row, words in enumerate(answers):
        table[row, : lengths[row]] = words

    def answer(batch: Batch) -> Chosen:
        length = batch["tokens"].shape[1] + walk.depth
        scores = score_answers(asked.model, asked.params, batch, walk, cache_length=length)
        best = scores.argmax(axis=1)
        return Chosen(table[best], lengths[best], answers, scores)

    return answer


METHODS: dict[str, Callable[[_Asked], Answer]] = {"greedy": _greedy, "beam": _beam, "candidates": _candidates}
