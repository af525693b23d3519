"""The conversion engine: rules are data, one table per family, and run in both directions.

A rule says which tensor of theirs is which leaf of ours, and how the axes move, as an einops pattern:

    Rule("layers.{layer}.self_attn.q_proj.weight", "layers/attention/q/kernel", "(h k) d -> d h k")

`{layer}` stands for the index of the leading axis of our stacked leaf, from `first` on. A tuple of our leaves splits
their tensor along the first axis on the right of the pattern (fused qkv, packed SwiGLU).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import einops
import numpy as np

from biomedgpt_jax.checkpoint.stream import in_order
from biomedgpt_jax.convert.finite import count_not_finite
from biomedgpt_jax.convert.leaves import Leaves
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.core.errors import RunError

Shape = tuple[int, ...]
Slice = tuple[str, int | None, np.ndarray]  # our path, index of the layer (None: the whole leaf), array


@dataclass(frozen=True)
class Rule:
    theirs: str
    ours: str | tuple[str, ...]
    pattern: str  # einops, theirs -> ours, without the layer axis
    first: int = 0  # their number of our first layer


def prefixed(rules: tuple[Rule, ...], *, theirs: str = "", ours: str = "") -> tuple[Rule, ...]:
    """The same rules for a family that sits inside a bigger model."""
    return tuple(
        replace(
            rule,
            theirs=theirs + rule.theirs,
            ours=ours + rule.ours if isinstance(rule.ours, str) else tuple(ours + path for path in rule.ours),
        )
        for rule in rules
    )


def import_slices(
    tensors: Mapping[str, np.ndarray],
    rules: tuple[Rule, ...],
    shapes: Mapping[str, Shape],
    *,
    where: str,
    ignored: tuple[str, ...] = (),
) -> Iterator[Slice]:
    """Returns an iterator of what each tensor becomes, in the order and the dtype of the source.

    Everything is checked before the first tensor is read. A slice is a view of its tensor: whoever deletes it
    before asking for the next has one tensor in memory.

    Args:
        tensors: their names to arrays; may load lazily.
        rules: all rules of the family.
        shapes: our leaf paths to shapes, stacked layers with their leading axis.
        where: the file or folder, for messages.
        ignored: regular expressions of their keys that we knowingly do not take.

    Raises:
        RunError: missing, left-over or misshapen tensors, or a leaf without a rule; all are named. From the iterator:
            tensors that are no floating ones, or hold what float32 has not.
    """
    active = _active(rules, shapes, where)
    # A damaged configuration may name a thousand million layers; their names alone would fill the memory.
    depth = max((shapes[_paths(rule)[0]][0] for rule in active if "{layer}" in rule.theirs), default=0)
    if depth > len(tensors):
        raise RunError(
            f"{where}: the configuration says {depth} layers, but there are {len(tensors)} tensors in all. Download "
            "the folder again, or correct the number in a copy."
        )
    moves = {move.key: move for rule in active for move in _moves(rule, shapes)}
    missing = sorted(moves.keys() - set(tensors))
    extra = sorted(key for key in set(tensors) - moves.keys() if not any(re.fullmatch(each, key) for each in ignored))
    found = {key: _shape(tensors, key) for key in tensors if key in moves}
    wrong = [
        f"{key} has shape {shape}, expected {moves[key].expected} for {', '.join(_paths(moves[key].rule))}"
        for key, shape in found.items()
        if shape != moves[key].expected
    ]
    if missing or extra or wrong:
        raise RunError(
            f"{where}: the tensors do not fit the model.\n  missing: {_some(missing)}\n"
            f"  not expected: {_some(extra)}\n  of another shape: {_some(wrong, 4)}\n"
            "Check that the configuration and the weights are of the same model, and that it is the one named in "
            "the call."
        )
    return _moved(tensors, [moves[key] for key in found], where)


def import_tensors(
    tensors: Mapping[str, np.ndarray],
    rules: tuple[Rule, ...],
    shapes: Mapping[str, Shape],
    *,
    where: str,
    ignored: tuple[str, ...] = (),
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (our path, array) for every leaf in `shapes`; see `import_slices`."""
    yield from whole_leaves(import_slices(tensors, rules, shapes, where=where, ignored=ignored), shapes)


def whole_leaves(slices: Iterable[Slice], shapes: Mapping[str, Shape]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each leaf when its last layer has come."""
    stacks: dict[str, tuple[np.ndarray, set[int]]] = {}
    for path, layer, array in slices:
        if layer is None:
            yield path, np.ascontiguousarray(array).reshape(array.shape)
            continue
        if path not in stacks:
            stacks[path] = np.empty(shapes[path], array.dtype), set(range(shapes[path][0]))
        stack, absent = stacks[path]
        stack[layer] = array
        absent.discard(layer)
        if not absent:
            yield path, stacks.pop(path)[0]


def theirs_shapes(rules: tuple[Rule, ...], shapes: Mapping[str, Shape], *, where: str) -> dict[str, Shape]:
    """Their keys to the shapes that `import_slices` expects."""
    return {move.key: move.expected for rule in _active(rules, shapes, where) for move in _moves(rule, shapes)}


def export_tensors(
    leaves: Mapping[str, np.ndarray],
    rules: tuple[Rule, ...],
    *,
    where: str,
    shapes: Mapping[str, Shape] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (their key, array) for every leaf; the exact inverse of `import_tensors`.

    Args:
        leaves: our paths to arrays; may load lazily, and each is asked for once: `Leaves` layer by layer.
        shapes: of `leaves`, where looking at them would load them.

    Raises:
        RunError: a leaf has no rule.
    """
    shapes = shapes or {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    for rule in _active(rules, shapes, where):
        left, right = _sides(rule)
        stacked = "{layer}" in rule.theirs
        slices = [_layers(leaves, path) if stacked else iter([leaves[path]]) for path in _paths(rule)]
        for key, *parts in zip(_keys(rule, shapes), *slices, strict=True):
            ours = np.stack(parts) if isinstance(rule.ours, tuple) else np.asarray(parts[0])
            sizes = dict(zip(right.split(), ours.shape, strict=True))
            yield key, in_order(_rearrange(ours, f"{right} -> {left}", sizes))


@dataclass(frozen=True)
class _Move:
    """What becomes of one tensor."""

    key: str
    rule: Rule
    layer: int | None
    pattern: str
    sizes: dict[str, int]
    expected: Shape  # of their tensor

    def apply(self, array: np.ndarray) -> Iterator[Slice]:
        moved = _rearrange(array, self.pattern, self.sizes)
        for index, path in enumerate(_paths(self.rule)):
            yield path, self.layer, moved[index] if isinstance(self.rule.ours, tuple) else moved


def _moved(tensors: Mapping[str, np.ndarray], moves: list[_Move], where: str) -> Iterator[Slice]:
    """Nothing is given from the first tensor on that holds what is no number; when all were looked at, it raises."""
    spoilt: list[str] = []
    for move in moves:
        array = tensors[move.key]
        if array.dtype.kind in "biu":
            raise RunError(
                f"{where}: tensor {move.key} has dtype {array.dtype}, expected a floating one. Quantised weights "
                "cannot be imported; take the model as it was before."
            )
        if count := count_not_finite(array):
            spoilt.append(f"{move.key} ({count} of {array.size})")
        elif not spoilt:
            yield from move.apply(array)
        del array  # so that the next may take its memory
    if spoilt:
        raise RunError(
            f"{where}: {len(spoilt)} of {len(moves)} tensors hold NaN, infinity or what is beyond float32: "
            f"{_some(spoilt)}. The file is damaged, or its training had diverged: take another checkpoint."
        )


def _moves(rule: Rule, shapes: Mapping[str, Shape]) -> Iterator[_Move]:
    paths, stacked = _paths(rule), "{layer}" in rule.theirs
    leaf = shapes[paths[0]][1:] if stacked else shapes[paths[0]]
    target = (len(paths), *leaf) if isinstance(rule.ours, tuple) else leaf
    left, right = _sides(rule)
    sizes = dict(zip(right.split(), target, strict=True))
    for layer, key in enumerate(_keys(rule, shapes)):
        yield _Move(key, rule, layer if stacked else None, f"{left} -> {right}", sizes, _composed(left, sizes))


def _layers(leaves: Mapping[str, np.ndarray], path: str) -> Iterator[np.ndarray]:
    return leaves.layers(path) if isinstance(leaves, Leaves) else iter(leaves[path])


def _shape(tensors: Mapping[str, np.ndarray], key: str) -> Shape:
    return tuple(tensors.shape(key) if isinstance(tensors, Tensors) else tensors[key].shape)


def _active(rules: tuple[Rule, ...], shapes: Mapping[str, Shape], where: str) -> list[Rule]:
    """The rules whose leaves this model has; each leaf must have exactly one."""
    active = [rule for rule in rules if all(path in shapes for path in _paths(rule))]
    covered = [path for rule in active for path in _paths(rule)]
    without = sorted(set(shapes) - set(covered))
    twice = sorted({path for path in covered if covered.count(path) > 1})
    if without or twice:
        raise RunError(
            f"{where}: the rule table does not fit.\n  leaves without a rule: {_some(without)}\n"
            f"  leaves with two: {_some(twice)}"
        )
    return active


def _keys(rule: Rule, shapes: Mapping[str, Shape]) -> list[str]:
    if "{layer}" not in rule.theirs:
        return [rule.theirs]
    count = shapes[_paths(rule)[0]][0]
    return [rule.theirs.replace("{layer}", str(rule.first + number)) for number in range(count)]


def _paths(rule: Rule) -> tuple[str, ...]:
    return (rule.ours,) if isinstance(rule.ours, str) else rule.ours


def _sides(rule: Rule) -> tuple[str, str]:
    left, right = rule.pattern.split("->")
    return left.strip(), right.strip()


def _rearrange(array: np.ndarray, pattern: str, sizes: dict[str, int]) -> np.ndarray:
    named = {name: size for name, size in sizes.items() if not name.isdigit()}
    return einops.rearrange(array, pattern, **named)


def _composed(side: str, sizes: dict[str, int]) -> Shape:
    """The shape that one side of a pattern means: "(h k) d" -> (h*k, d); a literal 1 is 1."""
    groups = re.findall(r"\(([^)]*)\)|(\S+)", side)
    names = [(inner or single).split() for inner, single in groups]
    return tuple(int(np.prod([1 if n == "1" else sizes[n] for n in group], dtype=int)) for group in names)


def _some(names: list[str], limit: int = 12) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
