"""The prompts: one file each, prompts/KIND_vN.md, with instructions and examples of our own.

A file is never changed once rows were made with it; a better prompt is a new file with the next number. Its parts stand
under the headings `# system` and `# example`, with `## source` and `## answer` below each example. Words in braces that
`Prompt.system` knows are filled in.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from biomedgpt_jax.data.errors import DataError

FOLDER = Path(__file__).parent / "prompts"
KINDS = ("conversation", "description", "reasoning")
_NAME = re.compile(rf"({'|'.join(KINDS)})_v(\d+)")
_PARTS = re.compile(r"^# (system|example)\n", re.MULTILINE)
_EXAMPLE = re.compile(r"## source\n(.*?)\n## answer\n(.*)", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """`name` is KIND_vN; `examples` are (source, answer); `sha256` is of the file."""

    name: str
    kind: str
    text: str
    examples: tuple[tuple[str, str], ...]
    sha256: str

    def system(self, words: Mapping[str, str | int]) -> str:
        """The instructions with {name} replaced by its word."""
        text = self.text
        for name, word in words.items():
            text = text.replace("{" + name + "}", str(word))
        return text


def read_prompt(name: str, folder: Path = FOLDER) -> Prompt:
    """The prompt `folder/NAME.md`. Raises DataError for a name of another form, no file, or one without parts."""
    match = _NAME.fullmatch(name)
    path = folder / f"{name}.md"
    if match is None or not path.is_file():
        there = ", ".join(sorted(each.stem for each in folder.glob("*.md"))) or "none"
        raise DataError(
            f"no prompt {name!r} in {folder}; found {there}. Names are KIND_vN, with KIND one of {', '.join(KINDS)}"
        )
    text = path.read_text(encoding="utf-8")
    first, *parts = _PARTS.split(text)
    pairs = list(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    system = [part for heading, part in pairs if heading == "system"]
    if first.strip() or len(system) != 1 or not system[0]:
        raise DataError(f"{path}: expected one part '# system' at its beginning, then parts '# example'")
    examples = tuple(_example(path, part) for heading, part in pairs if heading == "example")
    return Prompt(name, match[1], system[0], examples, hashlib.sha256(text.encode()).hexdigest())


def _example(path: Path, part: str) -> tuple[str, str]:
    found = _EXAMPLE.fullmatch(part)
    if found is None:
        raise DataError(f"{path}: an example needs '## source' and then '## answer'")
    return found[1].strip(), found[2].strip()
