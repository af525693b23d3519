"""A launch as data: the files it needs and the commands that it runs, in order."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

# The port that the firewall rule of Cloud TPU opens between workers. JAX's own default, 8482, it does not open.
COORDINATOR_PORT = 8476
_WIDTH = 110


@dataclass(frozen=True)
class File:
    path: str  # relative to where the launch is called
    text: str


@dataclass(frozen=True)
class Command:
    """Words of a command that runs without a shell; left out where those of `unless` succeed."""

    why: str
    words: tuple[str, ...]
    unless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All that a launch does, and the commands that its user will want next: those are only printed."""

    files: tuple[File, ...]
    commands: tuple[Command, ...]
    later: tuple[Command, ...]


def script(plan: Plan) -> str:
    """The plan as a bash script that does what the launch does, line for line."""
    parts = ["set -eu"]
    for file in plan.files:
        parts.append(f"mkdir -p {shlex.quote(_folder(file.path))}\n{_here_document(file)}")
    for command in plan.commands:
        line = one_line(command.words)
        if command.unless:
            line = f"{one_line(command.unless)} >/dev/null 2>&1 ||\n  {line}"
        parts.append(f"# {command.why}\n{line}")
    later = "".join(f"\n# {command.why}\n#   {' '.join(map(_quoted, command.words))}" for command in plan.later)
    return "\n\n".join(parts) + "\n" + (f"\n# Then:{later}\n" if later else "")


def one_line(words: Sequence[str]) -> str:
    """A command as a shell reads it, broken before its options where it is long."""
    quoted = [_quoted(word) for word in words]
    if len(" ".join(quoted)) <= _WIDTH:
        return " ".join(quoted)
    lines = [""]
    for word in quoted:
        if lines[-1] and word.startswith("--"):
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n    ".join(lines)


def _quoted(word: str) -> str:
    """With the quotes around the value of an option, where a reader expects them."""
    option = re.match(r"--[a-z][-a-z.]*=", word)
    start = option[0] if option else ""
    value = word[len(start) :]
    return start + (shlex.quote(value) if value or not start else "")


def _here_document(file: File) -> str:
    mark = "END_OF_FILE"
    while mark in file.text:
        mark += "_"
    return f"cat >{shlex.quote(file.path)} <<'{mark}'\n{file.text}{mark}"


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "."
