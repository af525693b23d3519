"""OpenAI CLIP vision towers: rule table and configuration."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from biomedgpt_jax.convert.kinds import activation
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.convert.tower_attributes import read_tower_attributes
from biomedgpt_jax.models.towers import clip
from biomedgpt_jax.models.vit import VitConfig

ANCHOR = "embeddings.class_embedding"  # a key that only this tower has; what precedes it is a prefix
IGNORED = (r"text_model\..*", r"logit_scale", r"(text|visual)_projection\.weight", r".*\.?position_ids")

_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}

_LAYER = (
    Rule("layer_norm1.weight", "norm1/scale", "d -> d"),
    Rule("layer_norm1.bias", "norm1/bias", "d -> d"),
    Rule("layer_norm2.weight", "norm2/scale", "d -> d"),
    Rule("layer_norm2.bias", "norm2/bias", "d -> d"),
    Rule("self_attn.q_proj.weight", "attention/q/kernel", "(h k) d -> d h k"),
    Rule("self_attn.q_proj.bias", "attention/q/bias", "(h k) -> h k"),
    Rule("self_attn.k_proj.weight", "attention/k/kernel", "(h k) d -> d h k"),
    Rule("self_attn.k_proj.bias", "attention/k/bias", "(h k) -> h k"),
    Rule("self_attn.v_proj.weight", "attention/v/kernel", "(h k) d -> d h k"),
    Rule("self_attn.v_proj.bias", "attention/v/bias", "(h k) -> h k"),
    Rule("self_attn.out_proj.weight", "attention/out/kernel", "d (h k) -> h k d"),
    Rule("self_attn.out_proj.bias", "attention/out/bias", "d -> d"),
    Rule("mlp.fc1.weight", "mlp/up/kernel", "f d -> d f"),
    Rule("mlp.fc1.bias", "mlp/up/bias", "f -> f"),
    Rule("mlp.fc2.weight", "mlp/down/kernel", "d f -> f d"),
    Rule("mlp.fc2.bias", "mlp/down/bias", "d -> d"),
)

# SigLIP's encoder has the same names.
ENCODER_RULES = (
    Rule("embeddings.patch_embedding.weight", "patch_embed/kernel", "d c p q -> p q c d"),
    Rule("embeddings.position_embedding.weight", "position_embedding", "n d -> n d"),
    Rule("post_layernorm.weight", "post_norm/scale", "d -> d"),
    Rule("post_layernorm.bias", "post_norm/bias", "d -> d"),
    *prefixed(_LAYER, theirs="encoder.layers.{layer}.", ours="layers/"),
)


def rules(config: VitConfig) -> tuple[Rule, ...]:
    """All rules of the family; the spelling `pre_layrnorm` is theirs."""
    del config
    return (
        Rule("embeddings.class_embedding", "cls_token", "d -> d"),
        Rule("pre_layrnorm.weight", "pre_norm/scale", "d -> d"),
        Rule("pre_layrnorm.bias", "pre_norm/bias", "d -> d"),
        *ENCODER_RULES,
    )


def tower_config_from_hf(config: Mapping[str, Any], where: str) -> VitConfig:
    """From a CLIPVisionConfig, or the `vision_config` of a CLIPConfig.

    Raises:
        RunError: an attribute or value that we do not handle.
    """
    read = read_tower_attributes(
        config.get("vision_config", config),
        defaults=_DEFAULTS,
        ignored=frozenset({"projection_dim", "vocab_size"}),
        where=where,
    )
    return clip_like(clip, read, where)


def clip_like(family: Callable[..., VitConfig], read: dict[str, Any], where: str) -> VitConfig:
    """The family's preset function with the sizes of a CLIP or SigLIP configuration."""
    tower = family(
        image_size=read["image_size"],
        patch=read["patch_size"],
        width=read["hidden_size"],
        depth=read["num_hidden_layers"],
        heads=read["num_attention_heads"],
        hidden=read["intermediate_size"],
    )
    act = activation(read["hidden_act"], f"{where}: hidden_act")
    return replace(tower, act=act, eps=read["layer_norm_eps"])
