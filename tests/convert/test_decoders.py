import json

import numpy as np
import pytest

from biomedgpt_jax.convert.decoders import IGNORED, RULES, decoder_config_from_hf
from biomedgpt_jax.convert.mapping import export_tensors, import_tensors
from biomedgpt_jax.convert.shapes import part_shapes
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.decoders import PRESETS
from tests.models.references import CONFIGS, decoder_reference

# config.json of meta-llama/Llama-3.2-1B, HuggingFaceTB/SmolLM2-135M, Qwen/Qwen2-0.5B and google/gemma-2b, as published
LLAMA_3_2_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
QWEN2_500M = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 131072,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GEMMA_2B = {
    "architectures": ["GemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.38.0.dev0",
    "use_cache": True,
    "vocab_size": 256000,
}
PUBLISHED = {"llama-3.2-1b": LLAMA_3_2_1B, "qwen2-0.5b": QWEN2_500M, "gemma-2b": GEMMA_2B}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_give_the_presets(name):
    assert decoder_config_from_hf(PUBLISHED[name], name) == PRESETS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_export_is_the_exact_inverse_of_import(name):
    reference = decoder_reference(name)
    family = json.loads((reference.tensors.folder / "config.json").read_text())["model_type"]
    leaves = {path: np.asarray(leaf) for path, leaf in leaf_paths(reference.params).items()}
    back = dict(export_tensors(leaves, RULES[family], where=name))
    assert back.keys() == set(reference.tensors)
    for key, array in back.items():
        np.testing.assert_array_equal(array, reference.tensors[key])


def test_both_spellings_of_rope_mean_the_same():
    old = decoder_config_from_hf(LLAMA_3_2_1B, "old")
    new = {name: value for name, value in LLAMA_3_2_1B.items() if name not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {**LLAMA_3_2_1B["rope_scaling"], "rope_theta": 500000.0}
    assert decoder_config_from_hf(new, "new") == old


def test_absent_attributes_are_those_of_transformers():
    """As in the text_config of llava-1.5, which names only what differs."""
    config = decoder_config_from_hf({"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-5}, "short")
    assert (config.width, config.depth, config.heads, config.kv_heads) == (4096, 32, 32, 32)
    assert (config.head_dim, config.rope_theta, config.tied) == (128, 10000.0, False)
    assert config.activation is Activation.SILU


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias is True"),
        ({"sparse_experts": 8}, "sparse_experts = 8"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'rope_type': 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "llama3 with exactly factor, low_freq_factor"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'"),
        ({"model_type": "mixtral"}, "model_type 'mixtral' is not a decoder we have"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change, message):
    with pytest.raises(RunError, match=message) as error:
        decoder_config_from_hf({**LLAMA_3_2_1B, **change}, "models/x/config.json")
    assert "models/x/config.json" in str(error.value)


def test_a_window_is_refused():
    with pytest.raises(RunError, match="use_sliding_window is True"):
        decoder_config_from_hf({**QWEN2_500M, "use_sliding_window": True}, "x")
    with pytest.raises(RunError, match="only full_attention"):
        decoder_config_from_hf({**QWEN2_500M, "layer_types": ["sliding_attention"]}, "x")


def test_missing_and_left_over_tensors_are_named():
    reference = decoder_reference("llama3")
    shapes = part_shapes(reference.config)
    tensors = {key: reference.tensors[key] for key in reference.tensors}
    tensors["model.layers.0.extra.weight"] = tensors.pop("model.layers.2.mlp.up_proj.weight")
    with pytest.raises(RunError) as error:
        dict(import_tensors(tensors, RULES["llama"], shapes, where="x", ignored=IGNORED))
    assert "missing: model.layers.2.mlp.up_proj.weight" in str(error.value)
    assert "not expected: model.layers.0.extra.weight" in str(error.value)
