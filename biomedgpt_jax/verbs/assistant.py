"""A loaded model of either family as one that answers: several requests together, or one as it is written.

Batches have few static shapes: one row or all rows, and lengths rounded up, so that a second request of about the same
size compiles nothing.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.rows import ImageRef
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.data.tokenizers import Tokenizer
from biomedgpt_jax.eval.beam import Beams, beam_search
from biomedgpt_jax.eval.decode import Decoded, Limits
from biomedgpt_jax.eval.row_decode import RowDecoder, Sampling, row_settings
from biomedgpt_jax.eval.trie_decode import TrieTable

UNREAD_TOKENS = 16  # made at once where nobody reads along
LEAST_ROOM = 16
BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a character decodes to until all its tokens are there


@dataclass(frozen=True)
class Manner:
    """How an answer is made. Equal `seeds` draw equal words; it ends before any of the texts in `stop`."""

    sampling: Sampling
    max_new_tokens: int
    seeds: tuple[int, int]
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """The last of `turns` is asked, the earlier ones are the conversation so far.

    `<image>` in their questions places the images; if it is nowhere, they stand in front of the first question.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[ImageRef, ...]
    manner: Manner


@dataclass(frozen=True)
class Prompt:
    """A request as the model reads it: `encoded` is the family's own, `pixels` are squares uint8 [h w 3].

    `tokens` counts what the model reads, with its images; `most` bounds the answer.
    """

    encoded: Any
    pixels: tuple[np.ndarray, ...]
    tokens: int
    most: int
    manner: Manner


class End(Enum):
    """Why an answer is over. The values are those of OpenAI's `finish_reason`."""

    STOP = "stop"  # the model ended it, or a stop text came
    LENGTH = "length"  # it has as many tokens as it may


@dataclass(frozen=True)
class Said:
    """An answer so far. What is in `text` once, stays; `end` None: there is more to come."""

    text: str
    tokens: int
    end: End | None


class ContextFull(RunError):
    """There is no room for a question and its answer."""


class Reader(abc.ABC):
    """What a family says of how it is asked."""

    name: str  # of the model
    model: ModelFns
    params: Params
    mesh: jax.sharding.Mesh
    tokenizer: Tokenizer
    remembers: bool  # whether it reads the turns of a conversation, or one question alone
    longest: int  # places of the cache
    barred: tuple[range, ...]  # words that are no text
    trie: TrieTable | None  # a closed list of answers

    @abc.abstractmethod
    def square(self, image: ImageRef) -> np.ndarray:
        """The picture as the model sees it, uint8 [h w 3]. DataError for what is none, OSError for no file."""

    @abc.abstractmethod
    def prompt(self, request: Request) -> Prompt:
        """Reads pictures and encodes texts; safe in any thread.

        Raises:
            DataError: a picture or a text that cannot be read. ContextFull. OSError: a file that cannot.
        """

    @abc.abstractmethod
    def batch(self, prompts: Sequence[Prompt]) -> Mapping[str, np.ndarray]:
        """One row per prompt, of a static shape that holds them all. `tokens` has rows that begin the cache."""


class Assistant:
    """A model that is asked `rows` requests at a time. Answers have room for `room` tokens at least: one shape for all
    that want fewer. `between` is called before each next token; what it raises ends the answers. With `beams` an answer
    is searched for, whatever its manner's sampling says, and is there as a whole; all ask for as many tokens then.
    """

    def __init__(
        self,
        reader: Reader,
        rows: int,
        room: int = LEAST_ROOM,
        between: Callable[[], None] | None = None,
        beams: Beams | None = None,
    ):
        self.reader, self.rows, self._room, self._between, self._beams = reader, rows, room, between, beams

    def prompt(self, request: Request) -> Prompt:
        """As `Reader.prompt`."""
        return self.reader.prompt(request)

    def answer(self, prompts: Sequence[Prompt]) -> list[Said]:
        """An answer to each, in their order.

        Raises:
            RunError: the model says what is no number.
        """
        said = []
        for first in range(0, len(prompts), self.rows):
            underway = self.begin(prompts[first : first + self.rows])
            while not underway.finished:
                underway.go_on(UNREAD_TOKENS)
            said += underway.said
        return said

    def begin(self, prompts: Sequence[Prompt]) -> "Underway":
        """Answers to at most `rows` prompts, to be made bit by bit. RunError as of `answer`."""
        assert 0 < len(prompts) <= self.rows
        rows = 1 if len(prompts) == 1 else self.rows
        return Underway(self.reader, prompts, rows, self._room, self._between, self._beams)


class Underway:
    """Answers that are being made. `said` has one for each prompt."""

    def __init__(
        self,
        reader: Reader,
        prompts: Sequence[Prompt],
        rows: int,
        room: int,
        between: Callable[[], None] | None,
        beams: Beams | None,
    ):
        self._reader, self._prompts, self._between = reader, prompts, between
        # Rows without a prompt repeat the last one and say nothing.
        repeated = [*prompts, *[prompts[-1]] * (rows - len(prompts))]
        batch = reader.batch(repeated)
        most = max(prompt.most for prompt in prompts)
        room = most if beams else rounded(most, room)
        assert not beams or all(prompt.most == most for prompt in prompts)
        limits = Limits(
            max_new_tokens=room,
            stop_ids=tuple(reader.tokenizer.stop_ids),
            cache_length=min(batch["tokens"].shape[1] + room, reader.longest),
            vocab_limit=reader.tokenizer.vocab_size,
            barred=reader.barred,
        )
        self._stopped = np.zeros(rows, bool)
        self.said = [Said("", 0, None)] * len(prompts)
        asked = reader.model, reader.params, batch, limits
        with jax.set_mesh(reader.mesh):
            if beams:
                self._decoder = _Found(beam_search(*asked, beams, reader.trie).best)
            else:
                manners = [prompt.manner for prompt in repeated]
                longest = [prompt.most for prompt in prompts] + [0] * (rows - len(prompts))
                settings = row_settings([m.sampling for m in manners], [m.seeds for m in manners], longest)
                self._decoder = RowDecoder(*asked, settings, reader.trie)
        self._hear()

    @property
    def finished(self) -> bool:
        return all(said.end for said in self.said)

    def go_on(self, tokens: int) -> None:
        """At most so many tokens more; one at a time where an answer has stop texts.

        Raises:
            RunError: the model says what is no number.
        """
        if self._between:
            self._between()
        if any(prompt.manner.stop for prompt in self._prompts):
            tokens = 1
        with jax.set_mesh(self._reader.mesh):
            self._decoder.go_on(tokens, self._stopped)
        self._hear()

    def drop(self, number: int) -> None:
        """Nobody waits for this answer any more; it ends as it is."""
        if self.said[number].end is None:
            self._end(number, End.STOP)

    def _hear(self) -> None:
        decoder = self._decoder
        for number, (prompt, before) in enumerate(zip(self._prompts, self.said, strict=True)):
            if before.end is not None:
                continue
            length, over = int(decoder.lengths[number]), bool(decoder.done[number])
            text = self._reader.tokenizer.decode(decoder.tokens[number, :length].tolist())
            text, stopped = readable(text, prompt.manner.stop, over)
            if not (text.startswith(before.text) or over):
                text = before.text
            self.said[number] = Said(text, length, None)
            if stopped or over:
                full = over and not stopped and length == prompt.most
                self._end(number, End.LENGTH if full else End.STOP)

    def _end(self, number: int, end: End) -> None:
        said = self.said[number]
        self.said[number] = Said(said.text, said.tokens, end)
        self._stopped[number] = True


class _Found:
    """Answers that are whole, as a `RowDecoder` has them that is done."""

    def __init__(self, answers: Decoded):
        self.tokens, self.lengths = answers
        self.done = np.ones(len(self.lengths), bool)

    def go_on(self, tokens: int, stopped: np.ndarray) -> None:
        raise AssertionError("there is nothing to go on with")


def readable(text: str, stop: Sequence[str], over: bool) -> tuple[str, bool]:
    """What of a text may be shown, without white space around it, and whether a stop text ended it.

    Until it is `over`, what may yet change is held back: characters that are not whole, the beginning of a stop text,
    and white space that may turn out to be the last.
    """
    text = text.lstrip()
    found = [place for place in map(text.find, stop) if place >= 0]
    if found:
        return text[: min(found)].rstrip(), True
    if not over:
        text = text.rstrip(BROKEN)
        held = (n for n in range(max(map(len, stop), default=0), 0, -1) if text.endswith(tuple(s[:n] for s in stop)))
        text = text[: len(text) - next(held, 0)]
    return text.rstrip(), False


def rounded(length: int, least: int) -> int:
    """The first of least * (1, 2, 3, 4, 6, 8, 12, ...) that is not smaller than `length`."""
    size = least
    while size < length:
        if size > least and size // 2 * 3 >= length:
            return size // 2 * 3
        size *= 2
    return size
