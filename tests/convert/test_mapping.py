import ml_dtypes
import numpy as np
import pytest

from biomedgpt_jax.convert.mapping import Rule, export_tensors, import_tensors, prefixed
from biomedgpt_jax.core.errors import RunError

RULES = (
    Rule("blocks.{layer}.qkv.weight", ("layers/q", "layers/k", "layers/v"), "(n h k) d -> n d h k"),
    Rule("cls_token", "cls", "1 1 d -> d"),
    Rule("patch.weight", "patch", "d c p q -> p q c d"),
    Rule("norm.bias", "norm/bias", "d -> d"),
)
SHAPES = {
    "layers/q": (2, 4, 3, 5),
    "layers/k": (2, 4, 3, 5),
    "layers/v": (2, 4, 3, 5),
    "cls": (4,),
    "patch": (2, 6, 3, 4),
}


def source() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"blocks.0.qkv.weight": (45, 4), "blocks.1.qkv.weight": (45, 4), "cls_token": (1, 1, 4)}
    return {key: rng.normal(size=shape) for key, shape in (shapes | {"patch.weight": (4, 3, 2, 6)}).items()}


def test_axes_move_as_the_pattern_says():
    tensors = source()
    ours = dict(import_tensors(tensors, RULES, SHAPES, where="file"))
    # head 2 of key, layer 1: rows 15 + 2 * 5 .. of the fused matrix
    np.testing.assert_array_equal(ours["layers/k"][1, :, 2, 3], tensors["blocks.1.qkv.weight"][15 + 2 * 5 + 3])
    np.testing.assert_array_equal(ours["patch"][1, 4, 2], tensors["patch.weight"][:, 2, 1, 4])
    back = dict(export_tensors(ours, RULES, where="file"))
    assert back.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra.weight": np.zeros(1)}, "not expected: extra.weight"),
        ({"cls_token": None}, "missing: cls_token"),
        ({"cls_token": np.zeros((1, 1, 4), np.int8)}, "cls_token has dtype int8, expected a floating one"),
        ({"cls_token": np.zeros((1, 1, 5))}, r"cls_token has shape \(1, 1, 5\), expected \(1, 1, 4\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    tensors = {key: array for key, array in (source() | change).items() if array is not None}
    with pytest.raises(RunError, match=message):
        list(import_tensors(tensors, RULES, SHAPES, where="file"))


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        (np.float16, np.inf),
        (ml_dtypes.bfloat16, -np.inf),
        (np.float32, np.nan),
        (np.float64, np.copysign(np.nan, -1)),
        (np.float64, -3.41e38),  # float32 ends at 3.4028e38
    ],
)
def test_what_is_no_number_is_named_when_all_was_looked_at(dtype, wrong):
    tensors = {key: array.astype(dtype) for key, array in source().items()}
    largest = np.finfo(np.float32).max if np.dtype(dtype).itemsize > 2 else 6e4
    tensors["blocks.0.qkv.weight"][...] = -largest
    tensors["blocks.1.qkv.weight"][[3, 44], 1] = wrong
    tensors["patch.weight"][3, 2, 1, 5] = wrong
    with pytest.raises(RunError) as raised:
        list(import_tensors(tensors, RULES, SHAPES, where="file"))
    assert "2 of 4 tensors hold NaN" in str(raised.value)
    assert "blocks.1.qkv.weight (2 of 180), patch.weight (1 of 144)" in str(raised.value)


def test_known_extras_are_ignored_only_when_said():
    tensors = source() | {"position_ids": np.zeros(3)}
    assert list(import_tensors(tensors, RULES, SHAPES, where="file", ignored=(r"position_\w+",)))


def test_a_leaf_without_a_rule_is_named():
    with pytest.raises(RunError, match="leaves without a rule: head"):
        list(import_tensors(source(), RULES, SHAPES | {"head": (3,)}, where="file"))


def test_prefixes_reach_both_sides():
    (rule,) = prefixed(RULES[:1], theirs="tower.", ours="tower/")
    assert rule.theirs == "tower.blocks.{layer}.qkv.weight"
    assert rule.ours == ("tower/layers/q", "tower/layers/k", "tower/layers/v")
