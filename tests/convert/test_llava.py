import json

import numpy as np
import pytest

from biomedgpt_jax.convert.llava import llava_from_hf
from biomedgpt_jax.convert.mapping import export_tensors, import_tensors
from biomedgpt_jax.convert.shapes import model_shapes
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import leaf_paths
from tests.models.llava_reference import llava_reference


def content() -> dict:
    return json.loads((llava_reference().tensors.folder / "config.json").read_text())


def test_export_is_the_exact_inverse_of_import():
    reference = llava_reference()
    leaves = {path: np.asarray(leaf) for path, leaf in leaf_paths(reference.params).items()}
    back = dict(export_tensors(leaves, reference.rules, where="llava"))
    assert back.keys() == set(reference.tensors)
    for key, array in back.items():
        np.testing.assert_array_equal(array, reference.tensors[key])


def test_older_names_with_vision_model_are_read_too():
    reference = llava_reference()
    older = {
        key.replace("vision_tower.", "vision_tower.vision_model."): reference.tensors[key] for key in reference.tensors
    }
    config, rules, ignored = llava_from_hf(content(), older, "older")
    leaves = dict(import_tensors(older, rules, model_shapes(config), where="older", ignored=ignored))
    for path, leaf in leaf_paths(reference.params).items():
        np.testing.assert_array_equal(leaves[path], leaf)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (None, {"vision_feature_layer": [-2, -5]}, r"vision_feature_layer is \[-2, -5\]"),
        (None, {"multimodal_projector_bias": False}, "multimodal_projector_bias is False"),
        (None, {"image_grid_pinpoints": [[336, 672]]}, r"image_grid_pinpoints = \[\[336, 672\]\]"),
        (None, {"text_config": None}, "text_config is None, expected an object"),
        (None, {"projector_hidden_act": "geluu"}, "projector_hidden_act is 'geluu', expected one of gelu"),
        (None, {"vision_feature_select_strategy": "cls"}, "strategy 'cls'"),
        ("text_config", {"attention_bias": True}, "text_config: attention_bias is True"),
        ("vision_config", {"model_type": "pixtral"}, "model_type 'pixtral'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(part, change, message):
    config = content()
    (config if part is None else config[part]).update(change)
    with pytest.raises(RunError, match=message):
        llava_from_hf(config, llava_reference().tensors, "llava")
