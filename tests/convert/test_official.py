"""Folders of the official Llama3-Med code: whole models with its configuration keys, and what its stage 1 leaves."""

import json

import numpy as np
import pytest

from biomedgpt_jax.convert.export_llama3med import llama3med_rules
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.mapping import export_tensors
from biomedgpt_jax.convert.shapes import model_shapes
from biomedgpt_jax.convert.tensors import write_safetensors
from biomedgpt_jax.models.connector import connector_from_name
from biomedgpt_jax.models.decoders import decoder_preset
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import clip, h_optimus
from biomedgpt_jax.models.vision import VisionConfig
from biomedgpt_jax.models.vit import Features
from tests.command import SHORT, assert_refused, biomedgpt, config

TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 3e4,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    # Of transformers before version 5.
    "do_sample": False,
    "pruned_heads": {},
    "is_decoder": False,
}
VISION = {
    "hidden_size": 128,
    "intermediate_size": 40,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "model_name_or_path": "openai/clip",
    "model_name_or_path2": "",
    "s2_scales": "28,56",
}
HISTORY = {
    "architectures": ["TinyLlavaForConditionalGeneration"],
    "llm_model_name_or_path": "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "tokenizer_name_or_path": "meta-llama/Meta-Llama-3.1-8B-Instruct",
    "vision_model_name_or_path": "openai/clip-vit-large-patch14",
    "vision_model_name_or_path2": "",
    "ignore_index": -100,
    "image_token_index": -200,
    "pad_token": "<|eot_id|>",
    "pad_token_id": 128009,
    "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": 4096,
    "tokenizer_use_fast": True,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "patch",
    "image_aspect_ratio": "square",
    "resampler_hidden_size": 768,
    "num_queries": 128,
    "num_resampler_layers": 3,
    "tune_type_llm": "full",
    "tune_type_connector": "full",
    "tune_type_vision_tower": "frozen",
    "tune_vision_tower_from_layer": 0,
    "use_cache": True,
    "cache_dir": None,
    "pretrained_llm_path": None,
    "pretrained_vision_tower_path": None,
    "pretrained_connector_path": None,
    "torch_dtype": "bfloat16",
}
CLIP = clip(image_size=28, patch=14, width=128, depth=3, heads=2, hidden=40)
OPTIMUS = h_optimus(image_size=28, width=128, depth=3, heads=2, hidden=40)


def official(model_type, **changes):
    return {
        **HISTORY,
        "model_type": model_type,
        "connector_type": "mlp2x_gelu",
        "text_config": TEXT,
        "vision_config": VISION,
        "hidden_size": 32,
        "vision_hidden_size": 256,
        "vocab_size": 64,
        "s2_scales": "28,56",
        **changes,
    }


def write(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: v for key, v in content.items() if v is not ...}))
    return folder


def whole(tower, features, connector="mlp2x_gelu"):
    vision = VisionConfig(tower, None, S2Config((28, 56), MapSize.SMALLEST), features)
    return Llama3MedConfig(vision, connector_from_name(connector, (256,), 32), decoder_preset("tiny"))


def random_leaves(model):
    rng = np.random.default_rng(0)
    return {path: rng.standard_normal(shape).astype(np.float32) for path, shape in model_shapes(model).items()}


@pytest.mark.parametrize("connector", ["mlp2x_gelu", "resampler"])
@pytest.mark.parametrize(
    ("tower", "features", "vision"),
    [
        (CLIP, Features(-2, final_norm=False, keep_prefix=False), {**VISION, "num_hidden_layers": 3}),
        # Its real sizes are not in the configuration.
        (OPTIMUS, Features(-1, final_norm=True, keep_prefix=False), {**VISION, "num_hidden_layers": 12}),
    ],
    ids=["clip", "h-optimus"],
)
def test_whole_model(tmp_path, tower, features, vision, connector):
    model = whole(tower, features, connector)
    leaves = random_leaves(model)
    folder = write(tmp_path / "m", official("tinyllava", vision_config=vision, connector_type=connector))
    write_safetensors(folder, export_tensors(leaves, llama3med_rules(model), where=""))
    imported = import_folder(folder)
    assert (imported.part, imported.config) == ("model", model)
    found = dict(imported.leaves)
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"text_config": ...}, ("text_config is missing", "llm_model_name_or_path = 'meta-llama/")),
        ({"vision_config": ...}, ("vision_config is missing", "vision_model_name_or_path = 'openai/")),
        ({"s2_scales": "", "vision_config": {**VISION, "s2_scales": ""}}, ("s2_scales is missing",)),
        ({"vision_config": [1]}, ("vision_config is [1], expected an object",)),
        ({"s2_scales": [28, 56]}, ("s2_scales is [28, 56], expected a word",)),
        ({"connector_type": "resampler", "num_queries": "many"}, ("num_queries is 'many', expected a whole number",)),
        ({"anyres_grid": 3}, ("attributes we do not know: anyres_grid = 3",)),
    ],
)
def test_what_only_the_hub_knows_is_asked_for(tmp_path, changes, texts):
    model = whole(CLIP, Features(-2, final_norm=False, keep_prefix=False))
    folder = write(tmp_path / "m", official("llama3med", **changes))
    write_safetensors(folder, export_tensors(random_leaves(model), llama3med_rules(model), where=""))
    assert_refused(biomedgpt("import", f"--from={folder}", f"--out={tmp_path / 'out'}"), 1, *texts)
    assert not (tmp_path / "out").exists()


def stage_1_folder(folder, width=64, connector_type="mlp2x_gelu"):
    """config.json and connector/model.safetensors; the smoke decoder's width, tiny-clip at one scale."""
    rng = np.random.default_rng(1)
    write(folder, official("tinyllava", hidden_size=128, vision_hidden_size=width, connector_type=connector_type))
    shapes = {"0.weight": (128, width), "0.bias": (128,), "2.weight": (128, 128), "2.bias": (128,)}
    tensors = {f"_connector.{key}": rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    write_safetensors(folder / "connector", tensors.items())
    return folder, tensors


def test_a_run_starts_from_the_connector_of_stage_1(tmp_path, prepared_data):
    from biomedgpt_jax.models.towers import TOWERS

    folder, _ = stage_1_folder(tmp_path / "stage1", width=TOWERS["tiny-clip"].width)
    called = biomedgpt("import", f"--from={folder}", f"--out={tmp_path / 'connector'}")
    assert called.code == 0, called
    assert "(connector)" in called.out
    arguments = (
        "train",
        config(f"smoke.py:stage=1,data={prepared_data}"),
        *SHORT,
        "--config.model.tower=tiny-clip",
        "--config.model.scales=(56,)",
        "--config.model.decoder=smoke",
        f"--config.model.connector={tmp_path / 'connector'}",
        '--config.init.random=("tower","decoder")',
        f"--workdir={tmp_path / 'run'}",
    )
    called = biomedgpt(*arguments)
    assert called.code == 0, called
    assert f"connector: {tmp_path / 'connector'} (4 arrays)" in called.out.replace("\n", "")
    others = [each for each in arguments if "scales" not in each and "workdir" not in each]
    called = biomedgpt(*others, "--config.model.scales=(56,112)", f"--workdir={tmp_path / 'other'}")
    assert_refused(called, 2, "config.model.connector", "channels")


def test_a_connector_of_another_kind_is_refused(tmp_path):
    folder, _ = stage_1_folder(tmp_path / "stage1", connector_type="linear")
    called = biomedgpt("import", f"--from={folder}", f"--out={tmp_path / 'out'}")
    assert_refused(called, 1, "_connector.2.weight", "not expected")
