import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths, merge, split

TREE = {"tower": {"norm": {"scale": 1}}, "decoder": {"embed": 2, "layers": {"q": 3}}}


def test_paths_there_and_back():
    assert leaf_paths(TREE) == {"decoder/embed": 2, "decoder/layers/q": 3, "tower/norm/scale": 1}
    assert from_leaf_paths(leaf_paths(TREE)) == TREE


def test_each_leaf_is_in_one_tree():
    trainable, frozen = split(TREE, lambda path: path.startswith("decoder"))
    assert trainable == {"decoder": {"embed": 2, "layers": {"q": 3}}}
    assert frozen == {"tower": {"norm": {"scale": 1}}}
    assert merge(trainable, frozen) == TREE


def test_a_leaf_in_both_trees_is_named():
    with pytest.raises(RunError, match="decoder/embed"):
        merge(TREE, {"decoder": {"embed": 5}})
