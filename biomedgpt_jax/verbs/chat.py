"""A conversation in the terminal: questions are read, answers appear as they are made."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import IMAGE
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.verbs.asking import Manner, make_prompt, written
from biomedgpt_jax.verbs.loaded_model import LoadedModel
from biomedgpt_jax.verbs.model_spec import image_transform

HELP = "/image PATH shows a picture with the next question, /reset forgets everything, /quit ends."


class Conversation:
    """What was said and shown so far."""

    def __init__(self, loaded: LoadedModel, manner: Manner):
        self._loaded, self._manner = loaded, manner
        self._transform = image_transform(loaded.spec)
        self.reset()

    def reset(self) -> None:
        self._turns: list[Turn] = []
        self._pixels: list[np.ndarray] = []
        self._new: list[np.ndarray] = []  # shown with the next question

    def show(self, file: Path) -> None:
        """Raises DataError for a file that is no picture, OSError for none."""
        self._new.append(self._transform(file.read_bytes(), name=str(file)))

    def ask(self, question: str) -> Iterator[str]:
        """The answer piece by piece; when it ends, question and answer are part of the conversation.

        Raises:
            RunError: the context is full. Nothing has changed then.
        """
        asked = Turn(f"{IMAGE}\n" * len(self._new) + question, "")
        pixels = [*self._pixels, *self._new]
        sample = Sample("chat", tuple(range(len(pixels))), (*self._turns, asked), {})
        manner = replace(self._manner, key=jax.random.fold_in(self._manner.key, len(self._turns)))
        prompt = make_prompt(self._loaded, sample, pixels, manner)
        answer = ""
        for piece in written(self._loaded, prompt, manner):
            answer += piece
            yield piece
        self._turns.append(replace(asked, answer=answer))
        self._pixels, self._new = pixels, []


def chat(conversation: Conversation) -> None:
    """Reads standard input until it ends, /quit or Ctrl-C."""
    asks = sys.stdin.isatty()
    if asks:
        print(HELP)
    try:
        while True:
            line = input("> " if asks else "").strip()
            if line == "/quit":
                return
            try:
                _obey(conversation, line)
            except (RunError, DataError, OSError) as error:
                print(f"{error}. {HELP}")
    except (EOFError, KeyboardInterrupt):
        print()


def _obey(conversation: Conversation, line: str) -> None:
    command, _, rest = line.partition(" ")
    if command == "/image":
        conversation.show(Path(rest.strip()).expanduser())
    elif command == "/reset":
        conversation.reset()
    elif command.startswith("/"):
        print(f"There is no {command}. {HELP}")
    elif line:
        for piece in conversation.ask(line):
            print(piece, end="", flush=True)
        print()
