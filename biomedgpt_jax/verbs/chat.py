"""A conversation in the terminal: questions are read, answers appear as they are made."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import IMAGE
from biomedgpt_jax.data.rows import ImageBytes, check_text
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.verbs.assistant import Assistant, Manner, Request

HELP = "/image PATH shows a picture with the next question, /reset forgets everything, /quit ends."
HELP_ALONE = (
    "Each question is answered alone. /image PATH shows a picture until the next one, /reset takes it away, /quit ends."
)


class Conversation:
    """What was said and shown so far. A model that does not remember sees the last picture and the question alone."""

    def __init__(self, assistant: Assistant, manner: Manner):
        self._assistant, self._manner = assistant, manner
        self._remembers = assistant.reader.remembers
        self.help = HELP if self._remembers else HELP_ALONE
        self.reset()

    def reset(self) -> None:
        self._turns: list[Turn] = []
        self._images: list[ImageBytes] = []
        self._new: list[ImageBytes] = []  # shown with the next question
        self._asked = 0

    def show(self, file: Path) -> None:
        """Raises DataError for a file that is no picture, OSError for none."""
        image = ImageBytes(file.read_bytes(), str(file))
        self._assistant.reader.square(image)
        self._new = [*self._new, image] if self._remembers else [image]

    def ask(self, question: str) -> Iterator[str]:
        """The answer piece by piece; when it ends, question and answer are part of the conversation.

        Raises:
            RunError: the context is full. Nothing has changed then.
        """
        asked = Turn(f"{IMAGE}\n" * len(self._new) + question if self._remembers else question, "")
        images = [*self._images, *self._new]
        manner = replace(self._manner, seeds=(self._manner.seeds[0], self._asked))
        answer = ""
        for piece in aloud(self._assistant, Request("chat", (*self._turns, asked), tuple(images), manner)):
            answer += piece
            yield piece
        self._asked += 1
        if self._remembers:
            self._turns.append(replace(asked, answer=answer))
            self._images, self._new = images, []


def aloud(assistant: Assistant, request: Request) -> Iterator[str]:
    """The pieces of one answer as they are made; joined they are all of it."""
    underway = assistant.begin([assistant.prompt(request)])
    shown = ""
    while True:
        text = underway.said[0].text
        yield text[len(shown) :]
        shown = text
        if underway.finished:
            return
        underway.go_on(1)


def chat(conversation: Conversation) -> None:
    """Reads standard input until it ends, /quit or Ctrl-C."""
    asks = sys.stdin.isatty()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that a line that is not UTF-8 is refused alone
    if asks:
        print(conversation.help)
    try:
        while True:
            line = input("> " if asks else "").strip()
            if line == "/quit":
                return
            try:
                _obey(conversation, line)
            except (RunError, DataError, OSError) as error:
                print(f"{error}. {conversation.help}")
    except (EOFError, KeyboardInterrupt):
        print()


def _obey(conversation: Conversation, line: str) -> None:
    check_text(line, "the line")
    command, _, rest = line.partition(" ")
    if command == "/image":
        conversation.show(Path(rest.strip()).expanduser())
    elif command == "/reset":
        conversation.reset()
    elif command.startswith("/"):
        print(f"There is no {command}. {conversation.help}")
    elif line:
        for piece in conversation.ask(line):
            print(piece, end="", flush=True)
        print()
