"""The small model's own scripts, at tiny size: weights out of a graph, two stages on cached features, and the same
training in PyTorch.
"""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from onnx import helper, numpy_helper

from biomedgpt_jax.data.tokenizer_export import to_tokenizer_json
from biomedgpt_jax.data.tokenizers import train_sentencepiece
from tests.command import ROOT, biomedgpt, config

SHORT = (
    "--config.data.row_tokens=128",
    "--config.data.image_slots=2",
    "--config.data.pack=False",
    "--config.train.batch_rows=8",  # one for each device of the tests
    "--config.train.epochs=3",
    "--config.train.log_every=1",
    "--config.lora.rank=2",
    "--config.log.tensorboard=False",
)


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "vqa_rad_small"))


def test_weights_are_named_after_the_bias_behind_them():
    import onnx_tower

    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("onnx::MatMul_7", (2, 3)), ("onnx::MatMul_3", (3, 2)))
    } | {"a.dense.bias": np.zeros(3, np.float32), "b.dense.bias": np.zeros(2, np.float32)}
    # The numbers of the exporter say nothing, and either input of an Add may be the bias.
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"]),
        helper.make_node("Add", ["a.dense.bias", "y"], ["z"]),
        helper.make_node("MatMul", ["z", "onnx::MatMul_3"], ["u"]),
        helper.make_node("Add", ["u", "b.dense.bias"], ["v"]),
        helper.make_node("MatMul", ["v", "z"], ["scores"]),
    ]
    found = onnx_tower.linear_weights(nodes, arrays)
    assert {name: array.shape for name, array in found.items()} == {"a.dense.weight": (2, 3), "b.dense.weight": (3, 2)}
    np.testing.assert_array_equal(found["a.dense.weight"], arrays["onnx::MatMul_7"])
    with pytest.raises(ValueError, match="onnx::MatMul_3"):
        onnx_tower.linear_weights(nodes[:3], arrays)


def test_the_two_parts_of_a_position_table_are_joined_in_order():
    import onnx_tower

    named = {"backbone.embeddings.cls_token": np.zeros((1, 1, 4), np.float32)}
    unnamed = {"onnx::Reshape_2": np.full((1, 9, 4), 2, np.float32), "onnx::Concat_9": np.ones((1, 1, 4), np.float32)}
    initializer = [numpy_helper.from_array(array, name) for name, array in {**named, **unnamed}.items()]
    tensors = onnx_tower.tower_tensors(helper.make_graph([], "g", [], [], initializer))
    assert tensors.keys() == {"embeddings.cls_token", "embeddings.position_embeddings"}
    assert tensors["embeddings.position_embeddings"][0, :, 0].tolist() == [1, *[2] * 9]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A DINOv2 and a Llama as transformers writes them, imported; the Llama's folder is the reference's."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    dinov2 = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(dinov2).save_pretrained(folder / "tower")
    llama = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(llama).save_pretrained(folder / "decoder")
    words = [f"question {number}: which organ is shown?" for number in range(50)]
    to_tokenizer_json(train_sentencepiece(words, folder / "words.model", 300), folder / "decoder")
    for name in ("tower", "decoder"):
        called = biomedgpt("import", f"--from={folder / name}", f"--out={folder / 'weights' / name}")
        assert called.code == 0, called
    return folder


@pytest.fixture(scope="module")
def instruct(parts, prepared_data):
    """Both stages, three steps each, on cached features."""
    weights = f"tower={parts / 'weights' / 'tower'},decoder={parts / 'weights' / 'decoder'},data={prepared_data}"
    cache = parts / "features"
    name = config(f"vqa_rad_small.py:stage=1,scales=28+56,{weights}")
    called = biomedgpt("prepare", "--features", name, *SHORT, f"--out={cache}")
    assert called.code == 0, called
    for stage, more in ((1, ()), (2, (f"--config.init.run={parts / 'stage1'}",))):
        name = config(f"vqa_rad_small.py:stage={stage},scales=28+56,features={cache},{weights}")
        called = biomedgpt("train", name, *SHORT, *more, f"--workdir={parts / f'stage{stage}'}")
        assert called.code == 0, called
    return parts / "stage2"


def test_pytorch_takes_the_same_steps(instruct, parts, tmp_path, monkeypatch, capsys):
    import first_steps
    import torch_training

    first, out = tmp_path / "first.npz", tmp_path / "curves.json"
    monkeypatch.setattr(sys, "argv", ["", f"--run={instruct}", "--steps=3", f"--out={first}"])
    first_steps.main()
    monkeypatch.setattr(sys, "argv", ["", f"--first={first}", f"--decoder={parts / 'decoder'}", f"--out={out}"])
    assert torch_training.main() == 0, capsys.readouterr().out
    curves = json.loads(out.read_text())
    ours, theirs = np.array(curves["biomedgpt_jax"]), np.array(curves["torch"])
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    # The first update has rate 0; then adapters and connector move the loss by far more than the tolerance.
    assert abs(ours[2] - ours[1]) > 1e-3 and len(ours) == 3
