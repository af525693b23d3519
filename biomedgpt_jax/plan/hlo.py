"""Reads the text of an optimized HLO module: computations, their instructions, and the sizes of shapes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from biomedgpt_jax.core.errors import RunError

_BITS = {
    **{"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "f4e2m1fn": 4, "s8": 8, "u8": 8, "bf16": 16, "f16": 16},
    **{"s16": 16, "u16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128},
    **{"token": 0, "opaque": 0},
}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: str  # as written: one array with its layout, or a tuple of them
    opcode: str
    operands: tuple[str, ...]  # names
    literal: str  # what stands between the brackets: a constant's value, a parameter's number
    attributes: str  # all behind the brackets
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """The value of `name=...` among the attributes, up to a comma or blank."""
        match = re.search(rf"\b{name}=%?([^\s,]+)", self.attributes)
        return match[1] if match else None

    def setting(self, name: str) -> str | None:
        """The value of `"name":"..."` in the back end's notes."""
        match = re.search(rf'"{name}":"?([^",}}]*)', self.attributes)
        return match[1] if match else None

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it runs (branches of a conditional included)."""
        branches = _BRANCHES.search(self.attributes)
        inside = [name.strip().lstrip("%") for name in branches[1].split(",")] if branches else []
        return (*_CALLED.findall(self.attributes), *inside)


@dataclass
class Computation:
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    @property
    def root(self) -> Instruction:
        return next(each for each in reversed(self.instructions) if each.is_root)

    def __getitem__(self, name: str) -> Instruction:
        return next(each for each in self.instructions if each.name == name)


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: Computation

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """All instructions of the computations that `instruction` calls, however deep."""
        for name in instruction.called:
            for each in self.computations[name].instructions:
                yield each
                yield from self.inside(each)


def parse(text: str) -> Module:
    """Raises RunError where the text is no HLO module."""
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in _logical_lines(text):
        if header := _HEADER.match(line):
            current = computations[header[2]] = Computation(header[2])
            entry = current if header[1] else entry
        elif current is not None and (name := _NAME.match(line)):
            current.instructions.append(_instruction(line, name))
    if entry is None:
        raise RunError("The compiler's text holds no ENTRY computation; expected an HLO module.")
    return Module(computations, entry)


def shape_bytes(shape: str) -> float:
    """Of all arrays in a shape, without the padding of their layout."""
    return sum(prod(sizes) * _bits(kind) / 8 for kind, sizes in arrays(shape))


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(element type, sizes) of each array in a shape."""
    found = _ARRAY.findall(re.sub(r"\{[^}]*\}", "", shape))
    return [(kind, tuple(int(size) for size in sizes.split(",") if size)) for kind, sizes in found]


def _logical_lines(text: str) -> Iterator[str]:
    """Instructions one by one; the notes of a kernel may hold line breaks."""
    lines: list[str] = []
    for line in text.splitlines():
        if _NAME.match(line) or _HEADER.match(line):
            if lines:
                yield "\n".join(lines)
            lines = []
        lines.append(line)
    if lines:
        yield "\n".join(lines)


def _bits(kind: str) -> int:
    return 8 if kind.startswith("f8") else _BITS[kind]


def _instruction(line: str, name: re.Match) -> Instruction:
    shape_end = _closing(line, name.end()) if line[name.end()] == "(" else line.index(" ", name.end())
    bracket = line.index("(", shape_end)
    end = _closing(line, bracket)
    inside = line[bracket + 1 : end - 1]
    return Instruction(
        name=name[2],
        shape=line[name.end() : shape_end],
        opcode=line[shape_end:bracket].strip(),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        literal=inside,
        attributes=line[end:],
        is_root=name[1] is not None,
    )


def _closing(line: str, start: int) -> int:
    """The place behind the bracket that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise RunError(f"Brackets do not close in a line of the compiler's text: {line[:80]}")
