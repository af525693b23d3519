"""Trainable and frozen parameters as two trees with disjoint leaves."""

from collections.abc import Callable, Iterator
from typing import Any

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.types import Params


def leaf_paths(tree: Params) -> dict[str, Any]:
    """Flattens nested dicts to `{"decoder/norm/scale": leaf}`, in sorted order of path."""
    return dict(sorted(_walk(tree, ())))


def from_leaf_paths(leaves: dict[str, Any]) -> Params:
    """The inverse of `leaf_paths`."""
    tree: Params = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(fn: Callable[[str, Any], Any], tree: Params) -> Params:
    """Applies `fn(path, leaf)` to each leaf of nested dicts."""
    return from_leaf_paths({path: fn(path, leaf) for path, leaf in leaf_paths(tree).items()})


def split(params: Params, is_trainable: Callable[[str], bool]) -> tuple[Params, Params]:
    """Returns (trainable, frozen): each leaf of `params` is in exactly one of them."""
    leaves = leaf_paths(params)
    trainable = {path: leaf for path, leaf in leaves.items() if is_trainable(path)}
    frozen = {path: leaf for path, leaf in leaves.items() if path not in trainable}
    return from_leaf_paths(trainable), from_leaf_paths(frozen)


def merge(first: Params, second: Params) -> Params:
    """Unites two trees with disjoint leaves.

    Raises:
        RunError: a path is in both trees.
    """
    left, right = leaf_paths(first), leaf_paths(second)
    both = sorted(left.keys() & right.keys())
    if both:
        raise RunError(f"These parameters are in both trees, expected in one: {', '.join(both[:5])}.")
    return from_leaf_paths(left | right)


def _walk(tree: Params, prefix: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    # Axis trees have tuples as leaves, so only dicts are nodes.
    for name, node in tree.items():
        if isinstance(node, dict):
            yield from _walk(node, (*prefix, name))
        else:
            yield "/".join((*prefix, name)), node
