"""GemmaForCausalLM (Gemma 1) of transformers: a Llama with offset norms, GeGLU and scaled embeddings."""

import math
from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert import llama
from biomedgpt_jax.models.llama import LlamaConfig

RULES = llama.RULES

# What transformers assumes for an absent attribute (5.23, GemmaConfig).
_DEFAULTS = {
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "vocab_size": 256000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": None,
}


def config_from_hf(config: Mapping[str, Any], where: str) -> LlamaConfig:
    """Reads the content of a config.json with model_type "gemma".

    Raises:
        RunError: an attribute that we neither handle nor know to be harmless.
    """
    found = llama.read_decoder_attributes(
        config,
        where=where,
        defaults=_DEFAULTS,
        fixed={
            "model_type": ("gemma",),
            "attention_bias": (False,),
            "attention_dropout": (0, 0.0),
            "hidden_activation": (None, "gelu_pytorch_tanh"),
            "use_bidirectional_attention": (None, False),
        },
        ignored=frozenset({"max_position_embeddings"}),
    )
    # The published files say "gelu" and mean its tanh form; transformers reads them so too.
    if found["hidden_act"] == "gelu":
        found["hidden_act"] = "gelu_pytorch_tanh"
    return llama.llama_config(
        found,
        where,
        eps=found["rms_norm_eps"],
        qkv_bias=False,
        norm_offset=1.0,
        embed_scale=math.sqrt(found["hidden_size"]),
    )
