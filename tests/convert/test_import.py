"""Folders written by transformers (and by hand in older spellings) come in with equal tensors."""

import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from biomedgpt_jax.checkpoint.weights import load_weights, weights_table
from biomedgpt_jax.convert.hoptimus import rules
from biomedgpt_jax.convert.importer import import_folder, save_imported
from biomedgpt_jax.convert.mapping import export_tensors
from biomedgpt_jax.convert.shapes import part_shapes
from biomedgpt_jax.core.config_json import from_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.towers import h_optimus
from tests.command import biomedgpt

VISION = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
CLIP = {**VISION, "intermediate_size": 40, "layer_norm_eps": 3e-4}
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 3e-5,
}


def saved(model, folder, **options):
    """A folder as transformers writes it, every weight random."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder, **options)
    return folder


@pytest.fixture
def llama(tmp_path):
    return saved(transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)), tmp_path / "llama")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=63,
        vision_feature_layer=-2,
    )
    folder = tmp_path_factory.mktemp("llava")
    return saved(transformers.LlavaForConditionalGeneration(config), folder)


def rewrite(folder, target, rename):
    """A copy of a folder with other names in its one file."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    save_file({rename(key): value for key, value in tensors.items()}, target / "model.safetensors")
    return target


def edit_config(folder, **changes):
    file = folder / "config.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def leaves(folder):
    return dict(import_folder(folder).leaves)


def same(left, right):
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


def test_a_sharded_bfloat16_llama_becomes_a_folder_of_weights(tmp_path):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).to(torch.bfloat16)
    folder = saved(model, tmp_path / "llama", max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: llama3.1\n---\n# A card\n")
    imported = import_folder(folder)
    save_imported(imported, tmp_path / "out", lambda *_: None)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    meta = weights_table(tmp_path / "out")["meta"]
    assert (meta["family"], meta["part"], meta["licence"]) == ("llama", "decoder", "llama3.1")
    assert "config.json" in meta["source"]
    assert all(len(digest) == 64 for digest in meta["source"].values())
    config = from_json(LlamaConfig, meta["config"], "meta")
    assert (config.width, config.kv_heads, config.eps, config.tied) == (32, 2, 3e-5, False)
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves(folder).items()}
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    expected = from_leaf_paths(
        {path: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding) for path, each in shapes.items()}
    )
    params = load_weights(tmp_path / "out", expected)
    kernel = params["layers"]["attention"]["q"]["kernel"]
    assert kernel.dtype == "bfloat16"
    theirs = model.model.layers[1].self_attn.q_proj.weight.detach().float().numpy().reshape(4, 8, 32)
    np.testing.assert_array_equal(np.asarray(kernel[1], np.float32), theirs.transpose(2, 0, 1))


def test_save_casts_when_asked(tmp_path, llama):
    save_imported(import_folder(llama), tmp_path / "out", lambda *_: None, dtype="bfloat16")
    assert {leaf["dtype"] for leaf in weights_table(tmp_path / "out")["leaves"].values()} == {"bfloat16"}


def test_clip_with_and_without_vision_model_and_beside_a_text_tower(tmp_path):
    whole = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=CLIP,
            text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        )
    )
    folder = saved(whole, tmp_path / "clip")
    both = import_folder(folder)
    assert (both.family, both.part, both.config.eps) == ("clip", "tower", 3e-4)
    reference = dict(both.leaves)
    assert reference["layers/attention/q/kernel"].shape == (3, 24, 2, 12)

    vision = saved(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**CLIP)), tmp_path / "vision")
    old = rewrite(vision, tmp_path / "old", lambda key: "vision_model." + key.removeprefix("vision_model."))
    new = rewrite(vision, tmp_path / "new", lambda key: key.removeprefix("vision_model."))
    same(leaves(old), leaves(new))
    assert leaves(old).keys() == reference.keys()


def test_normalisation_comes_from_the_preprocessor(tmp_path):
    folder = saved(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**CLIP)), tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    assert import_folder(folder).config.mean == (0.1, 0.2, 0.3)
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(RunError, match=r"preprocessor_config.json: not an image processor"):
        import_folder(folder)


def h_optimus_folder(folder):
    """A PyTorch file beside timm's config.json; our leaves, and theirs."""
    tower = h_optimus(image_size=28, width=24, depth=3, heads=2, hidden=40)
    rng = np.random.default_rng(0)
    ours = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in part_shapes(tower).items()}
    tensors = {key: torch.from_numpy(value) for key, value in export_tensors(ours, rules(tower), where="")}
    folder.mkdir(exist_ok=True)
    torch.save(tensors, folder / "checkpoint.pth")
    arguments = {"img_size": 28, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 80.01 / 24}
    content = {"architecture": "vit_giant_patch14_reg4_dinov2", "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(content))
    return tower, ours, tensors


MODELS = {
    "clip_vision_model": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**CLIP)),
    "siglip_vision_model": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**CLIP)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**VISION, mlp_ratio=2)),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**VISION, mlp_ratio=4, use_swiglu_ffn=True)
    ),
}
# The end of a name of theirs, and where its tensor, turned round, is in ours.
MOVED = {
    "clip_vision_model": ("layers.1.mlp.fc1.weight", "layers/mlp/up/kernel"),
    "siglip_vision_model": ("layers.1.mlp.fc1.weight", "layers/mlp/up/kernel"),
    "dinov2": ("layer.1.mlp.fc1.weight", "layers/mlp/up/kernel"),
    "dinov2_with_registers": ("layer.1.mlp.weights_out.weight", "layers/mlp/down/kernel"),
    "vit_giant_patch14_reg4_dinov2": ("blocks.1.mlp.fc2.weight", "layers/mlp/down/kernel"),
    "llava": ("language_model.model.layers.1.mlp.up_proj.weight", "decoder/layers/mlp/up/kernel"),
}


@pytest.mark.parametrize("family", MOVED)
def test_folders_come_in_by_the_command_line(tmp_path, family, llava):
    if family in MODELS:
        folder = saved(MODELS[family](), tmp_path / "source")
        tensors = load_file(folder / "model.safetensors")
    elif family == "llava":
        folder, tensors = llava, load_file(llava / "model.safetensors")
    else:
        folder = tmp_path / "source"
        *_, tensors = h_optimus_folder(folder)
    called = biomedgpt("import", f"--from={folder}", f"--out={tmp_path / 'out'}")
    assert called.code == 0, called
    part = "model" if family == "llava" else "tower"
    assert f"{family} ({part}) from" in called.out
    table = weights_table(tmp_path / "out")
    assert (table["meta"]["family"], table["meta"]["part"]) == (family, part)
    # Every number of theirs that is taken is somewhere in ours.
    theirs = sum(value.numel() for key, value in tensors.items() if not re.search(r"(^|\.)head\.|mask_token", key))
    assert sum(int(np.prod(leaf["shape"])) for leaf in table["leaves"].values()) == theirs
    (name, path), sharding = MOVED[family], jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = tuple(table["leaves"][path]["shape"])
    expected = from_leaf_paths({path: jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)})
    (found,) = jax.tree.leaves(load_weights(tmp_path / "out", expected))
    (their,) = [value for key, value in tensors.items() if key.endswith(name)]
    np.testing.assert_array_equal(found[1], their.numpy().T)


def test_h_optimus_from_a_torch_file(tmp_path):
    tower, ours, _ = h_optimus_folder(tmp_path)
    imported = import_folder(tmp_path)
    assert imported.config == tower
    same(dict(imported.leaves), ours)
    (tmp_path / "config.json").unlink()  # then it must be the published one
    with pytest.raises(RunError, match=r"missing: blocks.10.attn.proj.bias"):
        leaves(tmp_path)


SPELLINGS = {
    "transformers 5": lambda key: key,
    "before": lambda key: key.replace("vision_tower.", "vision_tower.vision_model."),
    "below model": lambda key: (
        key.removeprefix("language_model.")
        if key.startswith("language_model.lm_head")
        else key.replace("language_model.model.", "model.language_model.")
        if key.startswith("language_model.")
        else f"model.{key}"
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_llava_in_every_spelling(tmp_path, llava, spelling):
    renamed = rewrite(llava, tmp_path / "renamed", SPELLINGS[spelling])
    imported = import_folder(renamed)
    assert imported.part == "model"
    assert imported.config.tokens_per_image == 16
    assert imported.config.vision.features == replace(imported.config.vision.features, layer=-2, keep_prefix=False)
    same(dict(imported.leaves), leaves(llava))


def test_what_does_not_fit_is_named(tmp_path, llama, llava):
    with pytest.raises(RunError, match=r"nowhere/config.json: not there"):
        import_folder(tmp_path / "nowhere")
    edit_config(llama, sliding_window=7)
    with pytest.raises(RunError, match="sliding_window = 7"):
        import_folder(llama)
    edit_config(llama, sliding_window=..., model_type="mamba")
    with pytest.raises(RunError, match="model_type 'mamba' cannot be imported, expected one of llama"):
        import_folder(llama)
    edit_config(llama, model_type="llama", intermediate_size=52)
    with pytest.raises(RunError, match=r"mlp.gate_proj.weight has shape \(48, 32\), expected \(52, 32\)"):
        leaves(llama)
    edit_config(llama, intermediate_size=48, num_hidden_layers=3)
    with pytest.raises(RunError, match=r"missing: model.layers.2.input_layernorm.weight"):
        leaves(llama)
    (llama / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json: not a model configuration"):
        import_folder(llama)
    other = rewrite(llava, tmp_path / "other", lambda key: key.replace("norm1.bias", "norm3.bias"))
    with pytest.raises(RunError, match=r"not expected: .*layer_norm3.bias"):
        leaves(other)


def test_a_head_that_is_said_to_be_tied_must_be(tmp_path, llama):
    edit_config(llama, tie_word_embeddings=True)
    with pytest.raises(RunError, match=r"lm_head.weight differs from model.embed_tokens.weight"):
        import_folder(llama)
