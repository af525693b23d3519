"""A lab's path: published folders in, stage 1 on top of them, with their own tokenizer and nothing at random unsaid."""

import json

import pytest
import torch
import transformers

from biomedgpt_jax.checkpoint.weights import weights_table
from biomedgpt_jax.data.tokenizer_export import to_tokenizer_json
from biomedgpt_jax.data.tokenizers import train_sentencepiece
from tests.command import SHORT, assert_refused, biomedgpt, config


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A CLIP tower and a Llama decoder as transformers writes them, imported."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    clip = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.CLIPVisionModel(clip).save_pretrained(folder / "clip")
    llama = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_theta=5e5,
        rms_norm_eps=1e-5,
    )
    transformers.LlamaForCausalLM(llama).save_pretrained(folder / "llama")
    words = [f"question {number}: which organ is shown?" for number in range(50)]
    to_tokenizer_json(train_sentencepiece(words, folder / "words.model", 300), folder / "llama")
    for name in ("clip", "llama"):
        called = biomedgpt("import", f"--from={folder / name}", f"--out={folder / 'weights' / name}")
        assert called.code == 0, called
    return folder / "weights"


def stage_1(weights, data, workdir, *more):
    arguments = f"stage=1,tower={weights / 'clip'},decoder={weights / 'llama'},scales=32,data={data}"
    return biomedgpt(
        "train",
        config(f"llama3_med.py:{arguments}"),
        f"--workdir={workdir}",
        *SHORT,
        "--config.tokenizer.train_vocab_size=0",
        "--config.data.geometry=crop",
        *more,
    )


def test_stage_1_starts_from_the_imported_weights(weights, prepared_data, tmp_path):
    called = stage_1(weights, prepared_data, tmp_path / "align")
    assert called.code == 0, called
    printed = called.out.replace("\n", "")
    assert f"tower: {weights / 'clip'}" in printed and f"decoder: {weights / 'llama'}" in printed
    assert "connector: fresh initialisation" in printed
    rows = json.loads((tmp_path / "align" / "ledger.json").read_text())["rows"]
    assert {row["module"].split("/")[0] for row in rows if row["trainable"]} == {"connector"}
    # What was frozen is, bit for bit in bfloat16, what was imported in that type.
    again = weights.parent / "llama-bfloat16"
    assert biomedgpt("import", f"--from={weights.parent / 'llama'}", f"--out={again}", "--dtype=bfloat16").code == 0
    imported = weights_table(again)["leaves"]
    (base,) = (tmp_path / "align" / "base").iterdir()
    kept = weights_table(base)["leaves"]
    assert {path: leaf["digest"] for path, leaf in imported.items()} == {
        path.removeprefix("decoder/"): leaf["digest"] for path, leaf in kept.items() if path.startswith("decoder/")
    }


def test_a_connector_that_may_not_be_random_is_refused(weights, prepared_data, tmp_path):
    called = stage_1(weights, prepared_data, tmp_path / "align", "--config.init.random=()")
    assert_refused(called, 2, "connector", "config.init.random")
