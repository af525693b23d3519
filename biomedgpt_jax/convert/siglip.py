"""SigLIP vision towers: rule table and configuration.

The attention pooling head is not taken: features are those of patches.
"""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert.clip import ENCODER_RULES, clip_like
from biomedgpt_jax.convert.mapping import Rule
from biomedgpt_jax.convert.tower_attributes import read_tower_attributes
from biomedgpt_jax.models.towers import siglip
from biomedgpt_jax.models.vit import VitConfig

ANCHOR = "embeddings.patch_embedding.bias"
IGNORED = (r"text_model\..*", r"logit_(scale|bias)", r"(.*\.)?head\..*", r".*\.?position_ids")

_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


def rules(config: VitConfig) -> tuple[Rule, ...]:
    del config
    return (Rule("embeddings.patch_embedding.bias", "patch_embed/bias", "d -> d"), *ENCODER_RULES)


def tower_config_from_hf(config: Mapping[str, Any], where: str) -> VitConfig:
    """From a SiglipVisionConfig, or the `vision_config` of a SiglipConfig.

    Raises:
        RunError: an attribute or value that we do not handle.
    """
    read = read_tower_attributes(
        config.get("vision_config", config),
        defaults=_DEFAULTS,
        ignored=frozenset({"vision_use_head"}),
        where=where,
    )
    return clip_like(siglip, read, where)
