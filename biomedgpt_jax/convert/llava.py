"""LlavaForConditionalGeneration of transformers -> Llama3-Med: one tower at one scale, a two-layer MLP, a decoder."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from biomedgpt_jax.convert import decoders, towers
from biomedgpt_jax.convert.attributes import read_attributes
from biomedgpt_jax.convert.connector import llava_rules
from biomedgpt_jax.convert.kinds import OBJECT, WORD, activation, check_kinds
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.connector import MlpConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.vision import VisionConfig
from biomedgpt_jax.models.vit import Features

_HEAD = "language_model.lm_head.weight"
_TOWERS = {"clip_vision_model": towers.CLIP, "siglip_vision_model": towers.SIGLIP}

# What transformers assumes for an absent attribute (5.23, LlavaConfig).
_DEFAULTS = {
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def llava_from_hf(
    config: Mapping[str, Any], keys: Iterable[str], where: str
) -> tuple[Llama3MedConfig, tuple[Rule, ...], tuple[str, ...]]:
    """Reads a config.json of model_type "llava" and the names of its tensors.

    Returns:
        The configuration, the rules for exactly these names (older files have `vision_tower.vision_model.`,
        newer ones `vision_tower.`), and regular expressions of names that are knowingly not taken.

    Raises:
        RunError: an attribute that is neither handled nor ignored, or a variant that is not implemented.
    """
    keys = tuple(keys)
    found = read_attributes(
        config,
        where=where,
        defaults=_DEFAULTS,
        required=frozenset({"model_type", "vision_config", "text_config"}),
        fixed={"model_type": ("llava",), "multimodal_projector_bias": (True,)},
        # Which token stands for an image is the tokenizer's affair; tying is read from the weights.
        ignored=frozenset(
            {"image_token_index", "image_token_id", "image_seq_length", "ignore_index", "tie_word_embeddings"}
            | {"vocab_size", "pretraining_tp", "projection_dim"}
        ),
    )
    check_kinds(found, {"vision_config": OBJECT, "text_config": OBJECT, "projector_hidden_act": WORD}, where)
    reader = _tower_reader(found["vision_config"], where)
    tower = reader.config(found["vision_config"], f"{where}: vision_config")
    text = found["text_config"]
    decoder = decoders.decoder_config_from_hf(text, f"{where}: text_config")
    decoder = replace(decoder, tied=decoder.tied and _HEAD not in keys)
    features = Features(layer=_layer(found, where), final_norm=False, keep_prefix=_keeps_prefix(found, tower, where))
    vision = VisionConfig(tower, None, S2Config((tower.image_size,), MapSize.SMALLEST), features)
    act = activation(found["projector_hidden_act"], f"{where}: projector_hidden_act")
    model = Llama3MedConfig(vision, MlpConfig(2, act, tower.width, decoder.width), decoder)
    rules = (
        *prefixed(towers.rules_for(reader, tower, keys, where), ours="tower/"),
        *prefixed(llava_rules(model.connector), theirs="multi_modal_projector.", ours="connector/"),
        *prefixed(decoders.RULES[text["model_type"]], theirs="language_model.", ours="decoder/"),
    )
    ignored = (*reader.ignored, *(rf"language_model\.{name}" for name in decoders.IGNORED))
    return model, rules, ignored


def _tower_reader(vision: Mapping[str, Any], where: str) -> towers.TowerReader:
    family = vision.get("model_type")
    if not isinstance(family, str) or family not in _TOWERS:
        raise RunError(f"{where}: vision_config has model_type {family!r}, expected {' or '.join(_TOWERS)}.")
    return _TOWERS[family]


def _layer(found: Mapping[str, Any], where: str) -> int:
    layer = found["vision_feature_layer"]
    if type(layer) is not int:
        raise RunError(f"{where}: vision_feature_layer is {layer!r}, expected one number; lists are not implemented.")
    return layer


def _keeps_prefix(found: Mapping[str, Any], tower: Any, where: str) -> bool:
    """Their "default" drops the first token, which must be the class token; "full" keeps all."""
    strategy = found["vision_feature_select_strategy"]
    if strategy == "default" and tower.class_token:
        return False
    if strategy == "full":
        return tower.class_token
    raise RunError(
        f'{where}: vision_feature_select_strategy {strategy!r} is not implemented for this tower; expected "full", '
        'or "default" where the tower has a class token (without one it would drop a patch).'
    )
