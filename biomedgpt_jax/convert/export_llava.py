"""A single-scale model as a stock `LlavaForConditionalGeneration`: configuration and names."""

from typing import Any

from biomedgpt_jax.convert import decoders
from biomedgpt_jax.convert.connector import llava_rules
from biomedgpt_jax.convert.decoder_json import DecoderFamily, decoder_family, decoder_json
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.convert.processing import ExportText
from biomedgpt_jax.convert.tower_json import TowerFamily, tower_family, tower_json, tower_rules
from biomedgpt_jax.models.connector import MlpConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig

Json = dict[str, Any]

# Every version of transformers loads these; 5.x itself writes the tower without `vision_model.`.
TOWER_PREFIX = "vision_tower.vision_model."
CONNECTOR_PREFIX = "multi_modal_projector."
DECODER_PREFIX = "language_model."


def llava_obstacles(config: Llama3MedConfig) -> list[str]:
    """Why stock LLaVA cannot compute what this model computes; empty when it can."""
    vision, connector = config.vision, config.connector
    reasons = []
    if vision.second is not None:
        reasons.append("it mixes two towers")
    if len(vision.s2.scales) > 1:
        reasons.append(f"it sees {len(vision.s2.scales)} scales ({', '.join(map(str, vision.s2.scales))})")
    if tower_family(vision.tower) not in (TowerFamily.CLIP, TowerFamily.SIGLIP):
        reasons.append("its tower is neither CLIP nor SigLIP")
    if vision.features.final_norm:
        reasons.append("its features pass the tower's last norm")
    if not (isinstance(connector, MlpConfig) and connector.layers == 2):
        reasons.append(f"its connector is a {type(connector).__name__} and no MLP of two layers")
    if decoder_family(config.decoder) is DecoderFamily.GEMMA:
        reasons.append("Gemma scales image features with the token embeddings")
    return reasons


def llava_config(config: Llama3MedConfig, text: ExportText, dtype: str) -> Json:
    """The content of config.json, in the spelling that every version of transformers reads."""
    vision, tower = config.vision, config.vision.tower
    decoder = decoder_json(config.decoder, text)
    assert isinstance(config.connector, MlpConfig)
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_config": tower_json(tower),
        "text_config": decoder,
        "image_token_index": text.image_id,
        "image_seq_length": config.tokens_per_image,
        "projector_hidden_act": config.connector.act.value,
        "multimodal_projector_bias": True,
        "vision_feature_layer": vision.features.layer,
        "vision_feature_select_strategy": llava_strategy(config),
        "tie_word_embeddings": config.decoder.tied,
        "pad_token_id": text.pad_id,
        "torch_dtype": dtype,
    }


def llava_strategy(config: Llama3MedConfig) -> str:
    """LLaVA's "default" takes the first token away, which is the class token where there is one."""
    drop = config.vision.tower.class_token and not config.vision.features.keep_prefix
    return "default" if drop else "full"


def llava_name_rules(config: Llama3MedConfig) -> tuple[Rule, ...]:
    """Their names on disk to the paths of the whole model."""
    tower, decoder = config.vision.tower, decoder_family(config.decoder).value
    return (
        *prefixed(tower_rules(tower), theirs=TOWER_PREFIX, ours="tower/"),
        *prefixed(llava_rules(config.connector), theirs=CONNECTOR_PREFIX, ours="connector/"),
        *prefixed(decoders.RULES[decoder], theirs=DECODER_PREFIX, ours="decoder/"),
    )
