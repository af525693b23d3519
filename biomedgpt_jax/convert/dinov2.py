"""DINOv2 with and without registers: rule table (names on disk) and configuration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.convert.tower_attributes import read_tower_attributes
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.towers import dinov2
from biomedgpt_jax.models.vit import VitConfig

ANCHOR = "embeddings.cls_token"
IGNORED = (r"(.*\.)?embeddings\.mask_token",)  # read in pre-training only

_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4.0,
    "image_size": 224,
    "hidden_act": "gelu",  # not used by gated towers
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
}
_PATCH = {"dinov2": 14, "dinov2_with_registers": 16}
_IGNORED_ATTRIBUTES = frozenset(
    {"apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names", "use_mask_token"}
)

_LAYER = (
    Rule("norm1.weight", "norm1/scale", "d -> d"),
    Rule("norm1.bias", "norm1/bias", "d -> d"),
    Rule("norm2.weight", "norm2/scale", "d -> d"),
    Rule("norm2.bias", "norm2/bias", "d -> d"),
    Rule("attention.attention.query.weight", "attention/q/kernel", "(h k) d -> d h k"),
    Rule("attention.attention.query.bias", "attention/q/bias", "(h k) -> h k"),
    Rule("attention.attention.key.weight", "attention/k/kernel", "(h k) d -> d h k"),
    Rule("attention.attention.key.bias", "attention/k/bias", "(h k) -> h k"),
    Rule("attention.attention.value.weight", "attention/v/kernel", "(h k) d -> d h k"),
    Rule("attention.attention.value.bias", "attention/v/bias", "(h k) -> h k"),
    Rule("attention.output.dense.weight", "attention/out/kernel", "d (h k) -> h k d"),
    Rule("attention.output.dense.bias", "attention/out/bias", "d -> d"),
    Rule("layer_scale1.lambda1", "scale1", "d -> d"),
    Rule("layer_scale2.lambda1", "scale2", "d -> d"),
)
_PLAIN = (
    Rule("mlp.fc1.weight", "mlp/up/kernel", "f d -> d f"),
    Rule("mlp.fc1.bias", "mlp/up/bias", "f -> f"),
    Rule("mlp.fc2.weight", "mlp/down/kernel", "d f -> f d"),
    Rule("mlp.fc2.bias", "mlp/down/bias", "d -> d"),
)
_GATED = (
    Rule("mlp.weights_in.weight", ("mlp/gate/kernel", "mlp/up/kernel"), "(n f) d -> n d f"),
    Rule("mlp.weights_in.bias", ("mlp/gate/bias", "mlp/up/bias"), "(n f) -> n f"),
    Rule("mlp.weights_out.weight", "mlp/down/kernel", "d f -> f d"),
    Rule("mlp.weights_out.bias", "mlp/down/bias", "d -> d"),
)


def rules(config: VitConfig) -> tuple[Rule, ...]:
    layer = _LAYER + (_GATED if config.gated else _PLAIN)
    return (
        Rule("embeddings.cls_token", "cls_token", "1 1 d -> d"),
        Rule("embeddings.register_tokens", "register_tokens", "1 r d -> r d"),
        Rule("embeddings.position_embeddings", "position_embedding", "1 n d -> n d"),
        Rule("embeddings.patch_embeddings.projection.weight", "patch_embed/kernel", "d c p q -> p q c d"),
        Rule("embeddings.patch_embeddings.projection.bias", "patch_embed/bias", "d -> d"),
        Rule("layernorm.weight", "post_norm/scale", "d -> d"),
        Rule("layernorm.bias", "post_norm/bias", "d -> d"),
        *prefixed(layer, theirs="encoder.layer.{layer}.", ours="layers/"),
    )


def tower_config_from_hf(config: Mapping[str, Any], where: str) -> VitConfig:
    """From a Dinov2Config or Dinov2WithRegistersConfig.

    Raises:
        RunError: an attribute or value that we do not handle.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _PATCH:
        raise RunError(f"{where}: model_type is {family!r}, expected one of {sorted(_PATCH)}.")
    defaults = {**_DEFAULTS, "patch_size": _PATCH[family]}
    if family == "dinov2_with_registers":
        defaults["num_register_tokens"] = 4
    read = read_tower_attributes(config, defaults=defaults, ignored=_IGNORED_ATTRIBUTES, where=where)
    if read["hidden_act"] != "gelu" and not read["use_swiglu_ffn"]:
        raise RunError(f"{where}: hidden_act is {read['hidden_act']!r}, expected gelu, as in every DINOv2.")
    hidden = int(read["hidden_size"] * read["mlp_ratio"])
    tower = dinov2(
        image_size=read["image_size"],
        patch=read["patch_size"],
        width=read["hidden_size"],
        depth=read["num_hidden_layers"],
        heads=read["num_attention_heads"],
        hidden=_gated_width(hidden) if read["use_swiglu_ffn"] else hidden,
        gated=read["use_swiglu_ffn"],
        registers=read.get("num_register_tokens", 0),
    )
    return replace(
        tower,
        eps=read["layer_norm_eps"],
        qkv_bias=read["qkv_bias"],
        layer_scale=float(read["layerscale_value"]),
    )


def export_constants(config: VitConfig) -> dict[str, np.ndarray]:
    """Tensors that Hugging Face expects in a folder and that never reach the features."""
    return {"embeddings.mask_token": np.zeros((1, config.width), np.float32)} if config.registers else {}


def _gated_width(hidden: int) -> int:
    """Two thirds, rounded up to a multiple of 8, as transformers sizes its SwiGLU."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8
