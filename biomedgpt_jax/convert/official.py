"""Llama3-Med folders as the official code (and TinyLLaVA, whose keys it has) writes them, completed to our own keys.

Their config.json leaves open what their code fixes: towers give their last block but one without a final norm,
H-optimus its last with one; the pyramid is resized to its smallest map; prefix tokens are dropped. What only the hub
or the shapes of the tensors tell is asked for, or taken from them.
"""

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from biomedgpt_jax.convert.connector import official_rules
from biomedgpt_jax.convert.export_llama3med import TOWER_PREFIX
from biomedgpt_jax.convert.kinds import COUNT, OBJECT, WORD, check_kinds
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.towers import CLIP, DINOV2, HOPTIMUS, SIGLIP
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.connector import ConnectorConfig, connector_from_name

Json = dict[str, Any]

MODEL_TYPES = ("tinyllava", "llama3med")
CONNECTOR_FOLDER = "connector"

# Of training, of the tokenizer and of where parts once lay: nothing that changes what the network computes.
_HISTORY = frozenset(
    {
        "cache_dir",
        "ignore_index",
        "llm_model_name_or_path",
        "pad_token",
        "pretrained_connector_path",
        "pretrained_llm_path",
        "pretrained_vision_tower_path",
        "resampler_hidden_size",
        "tokenizer_name_or_path",
        "tokenizer_use_fast",
        "tune_type_connector",
        "tune_type_llm",
        "tune_type_vision_tower",
        "tune_vision_tower_from_layer",
        "vision_model_name_or_path",
        "vision_model_name_or_path2",
    }
)
_OF_TOWER = ("model_name_or_path", "model_name_or_path2", "s2_scales")
_ANCHORS = {
    "clip_vision_model": CLIP.anchor,
    "siglip_vision_model": SIGLIP.anchor,
    "dinov2": DINOV2.anchor,
    "hoptimus": HOPTIMUS.anchor,
}
# By connector_type: sizes that are in their code, not in the configuration.
_MODULES: dict[Any, Json] = {
    "resampler": {"resampler_heads": 8, "resampler_head_dim": 64, "resampler_mlp_ratio": 4, "resampler_eps": 1e-5},
    "qformer": {  # bert-base-uncased, reading the features in every other layer
        "qformer_width": 768,
        "qformer_layers": 12,
        "qformer_heads": 12,
        "qformer_hidden": 3072,
        "qformer_act": "gelu",
        "qformer_cross_every": 2,
        "qformer_eps": 1e-12,
    },
}
_HEAD_DIM = 64  # of H-optimus
_STATED = {"text_config": OBJECT, "vision_config": OBJECT, "connector_type": WORD}


def is_official(config: Mapping[str, Any]) -> bool:
    """Our exports state what to do with the maps of the pyramid."""
    return config.get("model_type") in MODEL_TYPES and "s2_resize_output_to_idx" not in config


def completed(config: Mapping[str, Any], tensors: Tensors, where: str) -> Json:
    """The same model in the keys of our exports, as `llama3med_config` reads them.

    Raises:
        RunError: the decoder or the tower are given by name alone, or there is no one tower.
    """
    if not config.get("text_config"):
        raise _by_name_alone(where, config, "text_config", "llm_model_name_or_path", "decoder")
    if not config.get("vision_config"):
        raise _by_name_alone(where, config, "vision_config", "vision_model_name_or_path", "vision tower")
    stated = {key: config.get(key) for key in _STATED}
    check_kinds(stated, _STATED, where)
    family = _family(tensors, where)
    vision = {key: value for key, value in config["vision_config"].items() if key not in _OF_TOWER}
    scales = config.get("s2_scales") or config["vision_config"].get("s2_scales")
    if not scales:
        raise RunError(
            f'{where}: s2_scales is missing, so the sizes of the pictures are unknown; write "224,672,1344" '
            "or what the model was trained with."
        )
    return {
        **{key: value for key, value in config.items() if key not in _HISTORY},
        "model_type": "llama3med",
        "vision_config": _hoptimus(tensors) if family == "hoptimus" else {**vision, "model_type": family},
        "s2_scales": scales,
        "s2_resize_output_to_idx": 0,
        # What their configuration says of these two, their towers ignore.
        "vision_feature_layer": -1 if family == "hoptimus" else -2,
        "vision_feature_select_strategy": "patch",
        "vision_feature_norm": family == "hoptimus",
        **_MODULES.get(config.get("connector_type"), {}),
    }


def open_connector(folder: Path, config: Mapping[str, Any]) -> tuple[ConnectorConfig, Tensors, tuple[Rule, ...]]:
    """What stage 1 leaves: the connector alone.

    Raises:
        RunError: config.json does not say which one.
    """
    where, keys = str(folder / "config.json"), ("connector_type", "vision_hidden_size", "hidden_size")
    missing = [key for key in keys if not config.get(key)]
    if missing:
        raise RunError(
            f"{where}: {', '.join(missing)} missing, expected {', '.join(keys)} to say which connector it is."
        )
    check_kinds(config, {"connector_type": WORD, "vision_hidden_size": COUNT, "hidden_size": COUNT}, where)
    connector = connector_from_name(config["connector_type"], (config["vision_hidden_size"],), config["hidden_size"])
    rules = prefixed(official_rules(connector), theirs="_connector.")
    return connector, SafetensorsFolder(folder / CONNECTOR_FOLDER), rules


def _family(tensors: Tensors, where: str) -> str:
    """Told by the tensors; the names in the configuration are of folders on another machine."""
    keys = [key.removeprefix(TOWER_PREFIX) for key in tensors if key.startswith(TOWER_PREFIX)]
    families = [
        name
        for name, anchor in _ANCHORS.items()
        if any(re.fullmatch(rf"(vision_model\.)?{re.escape(anchor)}", key) for key in keys)
    ]
    if len(families) != 1:
        raise RunError(
            f"{where}: expected one vision tower under {TOWER_PREFIX} (CLIP, SigLIP, DINOv2 or H-optimus), found "
            f"{', '.join(families) or 'none that we know'}. Of two towers (mof) the configuration holds only one: "
            "add vision_config2, vision_feature_norm, s2_resize_output_to_idx, mof_layers and mof_act to a copy."
        )
    return families[0]


def _hoptimus(tensors: Tensors) -> Json:
    """Their configuration holds sizes of CLIP that were never meant; the tensors tell."""

    def shape(key: str) -> tuple[int, ...]:
        return tensors.shape(TOWER_PREFIX + key)

    width, _, patch, _ = shape("patch_embed.proj.weight")
    blocks = {key.split(".")[3] for key in tensors if key.startswith(f"{TOWER_PREFIX}blocks.")}
    return {
        "model_type": "hoptimus",
        "hidden_size": width,
        "intermediate_size": shape("blocks.0.mlp.fc1.weight")[0] // 2,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": width // _HEAD_DIM,
        "image_size": isqrt(shape("pos_embed")[1]) * patch,
        "patch_size": patch,
        "num_register_tokens": shape("reg_token")[1],
    }


def _by_name_alone(where: str, config: Mapping[str, Any], key: str, name: str, part: str) -> RunError:
    return RunError(
        f"{where}: {key} is missing, so the {part} is known by its name alone ({name} = {config.get(name)!r}). Put the "
        f"content of that model's config.json under {key} in a copy of the file."
    )
