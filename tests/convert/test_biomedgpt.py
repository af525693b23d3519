"""BiomedGPT's published files: their inventory, reading them, refusing them."""

import argparse
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from biomedgpt_jax.convert.biomedgpt import FAIRSEQ_RULES, HF_RULES
from biomedgpt_jax.convert.biomedgpt_buffers import tables
from biomedgpt_jax.convert.biomedgpt_settings import config_from_fairseq, config_from_hf, fairseq_settings
from biomedgpt_jax.convert.fairseq_file import open_fairseq
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.mapping import theirs_shapes
from biomedgpt_jax.convert.open_biomedgpt import CheckpointChoices
from biomedgpt_jax.convert.shapes import leaf_shapes
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.models.biomedgpt_config import PRESETS
from tests.convert import fairseq_fixture as published
from tests.convert.fairseq_fixture import SMALL, save_checkpoint, save_hf_folder, state_dict
from tests.models.biomedgpt_rows import reference

# The published counts of learnt tensors and of buffers (running statistics are buffers).
COUNTS = {"tiny": (405, 136), "medium": (558, 289), "base": (676, 289), "large": (1183, 442), "huge": (1459, 442)}


@pytest.fixture(scope="module")
def state():
    return state_dict(SMALL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, state):
    return save_checkpoint(tmp_path_factory.mktemp("fairseq") / "small.pt", state, SMALL)


@pytest.fixture(scope="module")
def leaves(checkpoint):
    return dict(import_folder(checkpoint).leaves)


@pytest.mark.parametrize("size", COUNTS)
def test_the_inventory_has_the_published_counts(size):
    sizes = published.PUBLISHED[size]
    counts = len(published.parameter_shapes(sizes)), len(published.buffer_shapes(sizes))
    assert counts == COUNTS[size]


@pytest.mark.parametrize("size", ["tiny", "huge"])
def test_the_rules_know_every_published_tensor_by_name_and_shape(size):
    sizes = published.PUBLISHED[size]
    statistics = {k: s for k, s in published.buffer_shapes(sizes).items() if k.endswith(("mean", "running_var"))}
    expected = published.parameter_shapes(sizes) | statistics
    shapes = leaf_shapes(PRESETS[size])
    expected["encoder.embed_tokens.weight"] = (59520, sizes.width)  # padded
    assert theirs_shapes(FAIRSEQ_RULES, shapes, where=size) == expected
    assert set(theirs_shapes(HF_RULES, shapes, where=size)) == set(published.hf_state_dict(expected))


def test_tensors_arrive_where_they_belong(state, leaves):
    def same(path, expected):
        np.testing.assert_array_equal(leaves[path], expected.numpy())

    same("encoder/stem/conv1/kernel", state["encoder.embed_images.conv1.weight"].permute(2, 3, 1, 0))
    kernel = leaves["encoder/stem/stage2/rest/conv2/kernel"]
    assert kernel.shape == (3, 3, 3, 128, 128)
    np.testing.assert_array_equal(kernel[2], state["encoder.embed_images.layer2.3.conv2.weight"].permute(2, 3, 1, 0))
    same(
        "encoder/stem/stage3/first/downsample_norm/variance",
        state["encoder.embed_images.layer3.0.downsample.1.running_var"],
    )
    q = state["decoder.layers.0.encoder_attn.q_proj.weight"]  # head 1, channel 3 of it: row 1 * 4 + 3
    np.testing.assert_array_equal(leaves["decoder/layers/cross_attention/q/kernel"][0, :, 1, 3], q[7].numpy())
    out = state["encoder.layers.1.self_attn.out_proj.weight"]
    np.testing.assert_array_equal(leaves["encoder/layers/attention/out/kernel"][1, 2, 1], out[:, 9].numpy())
    same("decoder/positions/cross_k/bias", state["decoder.cross_pos_k_linear.bias"].reshape(3, 4))
    np.testing.assert_array_equal(
        leaves["encoder/layers/attention_out_norm/scale"][1], state["encoder.layers.1.attn_ln.weight"]
    )
    embedding = leaves["embed/embedding"]
    np.testing.assert_array_equal(embedding[:59457], state["encoder.embed_tokens.weight"].numpy())
    assert embedding.shape == (59520, 12) and not embedding[59457:].any()


def test_the_model_is_that_of_the_stored_settings(checkpoint):
    config = import_folder(checkpoint).config
    sizes = (config.width, config.mlp_width, config.heads, config.encoder_layers, config.decoder_layers)
    assert sizes == (12, 20, 3, 2, 1)
    assert config.stem_blocks == (3, 4, 6) and config.text_positions == 1026 and config.position_scale == 2.0
    assert config.scale_heads and not config.add_decoder_positions


def test_the_hugging_face_form_holds_the_same(tmp_path, state, leaves):
    folder = save_hf_folder(tmp_path / "hf", state, SMALL)
    imported = import_folder(folder)
    assert imported.family == "ofa" and "academic research" in imported.licence
    found = dict(imported.leaves)
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        assert found[path].dtype == leaf.dtype
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    # As safetensors keeps shared tensors: under one of their names.
    others = ("encoder.embed_tokens.weight", "decoder.output_projection.weight")
    once = {key: tensor for key, tensor in published.hf_state_dict(state).items() if key not in others}
    (folder / "pytorch_model.bin").unlink()
    save_file(once, folder / "model.safetensors")
    table = dict(import_folder(folder).leaves)["embed/embedding"]
    np.testing.assert_array_equal(table, leaves["embed/embedding"])


def test_the_state_dict_of_a_torch_model_becomes_the_parameters_that_answer_like_it(tmp_path):
    """tests/models/test_biomedgpt.py compares the logits of these parameters with those of that model."""
    it = reference()
    stored = {"args": None, "cfg": {"model": fairseq_settings(it.config, "tiny")}, "model": it.theirs.state_dict()}
    torch.save(stored, tmp_path / "tiny.pt")
    imported = import_folder(tmp_path / "tiny.pt")
    assert imported.config == it.config
    found, expected = dict(imported.leaves), leaf_paths(it.params)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_the_average_is_taken_on_request_alone(tmp_path, state):
    averaged = {key: tensor + 1 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    float32 = {"encoder.layer_norm.weight": torch.full((12,), 7.0)}
    extra = {"ema": averaged, "ema_fp32_params": float32}
    file = save_checkpoint(tmp_path / "ema.pt", state, SMALL, extra_state=extra)
    plain, taken = (dict(import_folder(file, choices=CheckpointChoices(averaged=ema)).leaves) for ema in (False, True))
    np.testing.assert_array_equal(plain["decoder/norm/bias"], state["decoder.layer_norm.bias"].numpy())
    np.testing.assert_array_equal(taken["decoder/norm/bias"], state["decoder.layer_norm.bias"].numpy() + 1)
    assert set(taken["encoder/norm/scale"]) == {7.0}


def test_an_average_that_is_not_there_or_not_whole_is_named(tmp_path, checkpoint, state):
    with pytest.raises(UsageError, match=r"no average of the weights \(extra_state has train_iterator, val_loss"):
        import_folder(checkpoint, choices=CheckpointChoices(averaged=True))
    some = {"ema_fp32_params": {"encoder.layer_norm.weight": torch.ones(12)}}
    few = {key: tensor for key, tensor in state.items() if key.startswith(("encoder.layer_norm", "encoder.embed_tok"))}
    file = save_checkpoint(tmp_path / "part.pt", few, SMALL, extra_state=some)
    with pytest.raises(RunError, match=r"average of the weights lacks 2 of them, first encoder.embed_tokens.weight"):
        import_folder(file, choices=CheckpointChoices(averaged=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"without": ("scale_fc", "disable_entangle")}, r"missing: disable_entangle, scale_fc"),
        ({"rotary_positions": True}, r"do not know: rotary_positions = True"),
        ({"sync_bn": True}, r"sync_bn is True, expected False"),
        ({"encoder_prompt": True}, r"encoder_prompt is True, expected"),
        ({"resnet_type": "resnet18"}, r"resnet_type is 'resnet18', expected one of resnet50"),
        ({"decoder_attention_heads": 6}, r"encoder_attention_heads is 3, decoder_attention_heads 6"),
        ({"encoder_attention_heads": 8, "decoder_attention_heads": 8}, r"width of 12 does not divide into 8 heads"),
        ({"scale_attn": "False"}, r"scale_attn is 'False', expected true or false"),
        ({"attn_scale_factor": float("nan")}, r"attn_scale_factor is nan, expected a number above 0"),
        ({"resnet_type": None, "resnet_blocks": [3, 4, "6"]}, r"resnet_type is None, expected one of resnet50"),
        ({"scale_heads": False}, r"not expected: decoder.layers.0.encoder_attn.c_attn"),
        (
            {"encoder_layers": 3, "encoder_ffn_embed_dim": 24, "decoder_ffn_embed_dim": 24},
            r"missing: encoder.image_rel_pos_table_list.2.weight(?s:.*)fc1.weight has shape \(20, 12\), expected \(24",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, state, changed, message):
    small = {key: tensor for key, tensor in state.items() if "bucket" not in key}
    file = save_checkpoint(tmp_path / "changed.pt", small, SMALL, **changed)
    with pytest.raises(RunError, match=message):
        import_folder(file)


UNUSUAL = {"attn_scale_factor": 3.0, "token_bucket_size": 64, "image_bucket_size": 30, "code_image_size": 96}


def test_no_size_is_taken_from_a_published_model(checkpoint):
    """Heads that do not divide the width of base, and every number another than everywhere else."""
    tensors = open_fairseq(checkpoint, averaged=False).tensors
    sizes = replace(SMALL, width=20, heads=5)
    stated = published.settings(sizes) | UNUSUAL | dict.fromkeys(("max_source_positions", "max_target_positions"), 2048)
    stated |= dict.fromkeys(("scale_attn", "scale_fc", "disable_entangle"), False)
    found = config_from_fairseq(stated, tensors, "small.pt")
    expected = replace(
        PRESETS["tiny"],
        width=20,
        heads=5,
        mlp_width=20,
        encoder_layers=2,
        decoder_layers=1,
        position_scale=3.0,
        text_buckets=64,
        image_grid=30,
        code_grid=12,
        text_positions=2050,
    )
    assert found == replace(expected, scale_attention=False, scale_mlp=False, add_decoder_positions=True)
    assert (found.norm_eps, found.bucket_reach) == (1e-5, 1024)  # facts 3.5 and 3.7
    stated = published.hf_config(sizes) | UNUSUAL | {"max_position_embeddings": 2048}
    assert config_from_hf(stated, "config.json") == expected
    assert len(tables(expected)["decoder.image_position_idx"]) == 1 + 12**2 + 769


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (
            "decoder.output_projection.weight",
            lambda t: t + 1,
            "output_projection.weight differs from encoder.embed_tok",
        ),
        ("encoder.token_rp_bucket", lambda t: t.flip(0), r"token_rp_bucket\[0, 0\] is 510, ours is 255"),
        ("decoder.image_position_idx", lambda t: t[:1020], r"image_position_idx has shape \(1020,\)"),
    ],
)
def test_copies_and_tables_must_be_what_the_model_computes_with(tmp_path, state, key, change, message):
    file = save_checkpoint(tmp_path / "changed.pt", {**state, key: change(state[key]).contiguous()}, SMALL)
    with pytest.raises(RunError, match=message):
        dict(import_folder(file).leaves)


def test_a_setting_may_be_named_harmless(tmp_path, state):
    small = {key: tensor for key, tensor in state.items() if "bucket" not in key}
    changed = {"curious_option": 3, "imagenet_default_mean_and_std": True}
    file = save_checkpoint(tmp_path / "changed.pt", small, SMALL, **changed)
    imported = import_folder(file, choices=CheckpointChoices(harmless=("curious_option",)))
    assert imported.config.width == SMALL.width
    assert imported.asking == {"image_size": 384, "pixels": "imagenet"}


class DictConfig:
    """Pickled as omegaconf pickles its container."""

    def __init__(self, content):
        self._metadata, self._parent, self._content = {"object_type": dict}, None, content


class AnyNode:
    def __init__(self, value):
        self._metadata, self._val = {}, value


def test_settings_in_containers_of_omegaconf_are_read_without_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "omegaconf", SimpleNamespace(__path__=[]))
    for module, kind in (("omegaconf.dictconfig", DictConfig), ("omegaconf.nodes", AnyNode)):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{kind.__name__: kind}))
        monkeypatch.setattr(kind, "__module__", module)
    it = reference()
    settings = {name: AnyNode(value) for name, value in fairseq_settings(it.config, "tiny").items()}
    cfg = DictConfig({"model": DictConfig(settings), "common": DictConfig({"seed": AnyNode(1)})})
    torch.save({"args": None, "cfg": cfg, "model": it.theirs.state_dict()}, tmp_path / "tiny.pt")
    for module in ("omegaconf", "omegaconf.dictconfig", "omegaconf.nodes"):
        monkeypatch.delitem(sys.modules, module)
    assert import_folder(tmp_path / "tiny.pt").config == it.config


class _Trap:
    def __reduce__(self):
        import os

        return os.mkdir, ("trapped",)


def test_a_hostile_checkpoint_is_refused_before_it_acts(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    torch.save({"args": argparse.Namespace(trap=_Trap()), "model": {"weight": torch.ones(1)}}, "hostile.pt")
    with pytest.raises(RunError, match=r"asks for posix.mkdir.*can run code"):
        import_folder("hostile.pt")
    assert not (tmp_path / "trapped").exists()
    inside = laughs = []
    for _ in range(60):
        laughs = [laughs, laughs]
    inside.append(inside)
    torch.save({"args": argparse.Namespace(laughs=laughs), "model": {"weight": torch.ones(1)}}, "laughs.pt")
    with pytest.raises(RunError, match=r"laughs = \[\["):
        import_folder("laughs.pt")
    torch.save({"weight": torch.ones(1)}, "bare.pt")
    with pytest.raises(
        RunError, match="expected a fairseq checkpoint, a dict with model and args or cfg; found weight"
    ):
        import_folder("bare.pt")
