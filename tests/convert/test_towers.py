import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from biomedgpt_jax.convert.dinov2 import export_constants
from biomedgpt_jax.convert.mapping import export_tensors, import_tensors
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.tower_json import tower_json
from biomedgpt_jax.convert.towers import rules_for, tower_reader, with_normalisation
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.models.towers import TOWERS
from tests.models.references import randomised, saved
from tests.models.vision_references import CONFIGS, NAMES, tower_reference, tower_shapes

LEGACY = {  # what transformers 4.16 wrote around the facts of openai/clip-vit-*
    "_name_or_path": "",
    "add_cross_attention": False,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "is_decoder": False,
    "id2label": {"0": "LABEL_0"},
    "length_penalty": 1.0,
    "pruned_heads": {},
    "top_k": 50,
    "torch_dtype": None,
    "model_type": "clip_vision_model",
}
PUBLISHED = {  # the facts in the config.json of each hub folder
    "openai/clip-vit-large-patch14-336": {
        "model_type": "clip",
        "text_config": {"hidden_size": 768},
        "vision_config": LEGACY
        | {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
        },
    },
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip",
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
    },
    "google/siglip-base-patch16-224": {"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}},
    "facebook/dinov2-giant": {
        "model_type": "dinov2",
        "hidden_size": 1536,
        "num_hidden_layers": 40,
        "num_attention_heads": 24,
        "image_size": 518,
        "patch_size": 14,
        "use_swiglu_ffn": True,
    },
    "facebook/dinov2-with-registers-small": {
        "model_type": "dinov2_with_registers",
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": 518,
        "patch_size": 14,
    },
    "bioptimus/H-optimus-0": {
        "architecture": "vit_giant_patch14_reg4_dinov2",
        "model_args": {"img_size": 224, "init_values": 1e-05, "dynamic_img_size": False},
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_the_presets(name):
    assert tower_reader(PUBLISHED[name], name).config(PUBLISHED[name], name) == TOWERS[name]


@pytest.mark.parametrize("name", TOWERS)
def test_written_configurations_are_read_as_they_were(name):
    written = json.loads(json.dumps(tower_json(TOWERS[name])))
    assert tower_reader(written, name).config(written, name) == TOWERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_weights_return_bit_equal_and_load_again(name):
    reference = tower_reference(name)
    leaves = {path: np.asarray(leaf) for path, leaf in leaf_paths(reference.params).items()}
    back = dict(export_tensors(leaves, reference.rules, where=name))
    ignored = reference.tensors.keys() - back.keys()
    assert all(key.startswith("head.") or key == "embeddings.mask_token" for key in ignored)
    for key, array in back.items():
        np.testing.assert_array_equal(array, reference.tensors[key])


def test_exported_dinov2_with_registers_misses_nothing(tmp_path):
    from safetensors.numpy import save_file

    reference = tower_reference("dinov2-registers")
    leaves = {path: np.asarray(leaf) for path, leaf in leaf_paths(reference.params).items()}
    tensors = dict(export_tensors(leaves, reference.rules, where="here")) | export_constants(reference.config)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    CONFIGS["dinov2-registers"]().save_pretrained(tmp_path)
    loaded, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    weights = reference.model.state_dict()
    for key, weight in loaded.state_dict().items():
        if "mask_token" not in key:
            assert torch.equal(weight, weights[key]), key


def test_a_whole_clip_folder_gives_its_tower():
    """Text side ignored; and the older names with `vision_model.` in front."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CONFIGS["clip"]()
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision.to_dict()))
    folder = saved(randomised(model))
    content, tensors = json.loads((folder / "config.json").read_text()), SafetensorsFolder(folder)
    reader = tower_reader(content, "config.json")
    config = reader.config(content, "config.json")
    assert config == tower_reference("clip").config
    renamed = {key.removeprefix("vision_model."): tensors[key] for key in tensors if key.startswith("vision_model.")}
    old_and_new = []
    for spelling in (tensors, renamed):
        rules = rules_for(reader, config, spelling, "here")
        leaves = import_tensors(spelling, rules, tower_shapes(config), where="here", ignored=reader.ignored)
        old_and_new.append(dict(leaves))
    np.testing.assert_array_equal(
        old_and_new[0]["layers/attention/q/kernel"][1],
        model.vision_model.encoder.layers[1].self_attn.q_proj.weight.detach().numpy().T.reshape(32, 4, 8),
    )
    for path, array in old_and_new[0].items():
        np.testing.assert_array_equal(array, old_and_new[1][path])


CLIP = {"model_type": "clip_vision_model"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CLIP | {"window_size": 7}, "window_size = 7"),
        (CLIP | {"num_channels": 1}, "num_channels is 1, expected 3"),
        (CLIP | {"hidden_act": "swish"}, "hidden_act is 'swish'"),
        (CLIP | {"hidden_size": "768"}, "hidden_size is '768', expected a whole number"),
        (CLIP | {"num_attention_heads": 5}, "5 attention heads cannot share a width of"),
        (CLIP | {"image_size": [224, 448]}, r"image_size is \[224, 448\], expected a square"),
        (CLIP | {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        (CLIP | {"quantization_config": {}}, "quantization_config"),
        ({"model_type": "siglip_vision_model", "window_size": 7}, "window_size = 7"),
        ({"model_type": "dinov2", "num_register_tokens": 4}, "num_register_tokens = 4"),
        ({"model_type": "dinov2", "hidden_act": "relu"}, "hidden_act is 'relu', expected gelu"),
        ({"model_type": "vit"}, "model_type 'vit' is no vision tower that we know.*dinov2_with_registers"),
        (
            {"architecture": "vit_giant_patch14_reg4_dinov2", "model_args": {"qk_norm": True}},
            "model_args qk_norm are not handled",
        ),
    ],
)
def test_attributes_that_are_not_handled_are_named(config, message):
    with pytest.raises(RunError, match=message) as raised:
        tower_reader(config, "folder/config.json").config(config, "folder/config.json")
    assert "folder/config.json" in str(raised.value)


def test_weights_of_another_family_are_refused():
    dino, clip = tower_reference("dinov2"), tower_reference("clip")
    with pytest.raises(RunError, match=r"one tensor named \.\.\.embeddings\.class_embedding, found 0"):
        rules_for(clip.reader, clip.config, dino.tensors, "folder")


def test_normalisation_of_the_preprocessor():
    clip = TOWERS["openai/clip-vit-base-patch32"]
    changed = with_normalisation(clip, {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}, "file")
    assert changed == replace(clip, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    with pytest.raises(RunError, match="do_normalize"):
        with_normalisation(clip, {"do_normalize": False}, "file")
    for wrong, message in (([0, 1, 1], "expected numbers above 0"), ([1, 1, float("nan")], "expected three numbers")):
        with pytest.raises(RunError, match=f"image_std.*{message}"):
            with_normalisation(clip, {"image_std": wrong}, "file")
