"""Llama3-Med folders as our exports write them, and the settings of image processors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomedgpt_jax.convert.attributes import read_attributes
from biomedgpt_jax.convert.decoders import decoder_config_from_hf
from biomedgpt_jax.convert.kinds import (
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    OBJECT_OR_NULL,
    WHOLE,
    WORD,
    activation,
    check_kinds,
)
from biomedgpt_jax.convert.towers import tower_reader, with_normalisation
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.connector import (
    ConnectorConfig,
    MofConfig,
    QFormerConfig,
    ResamplerConfig,
    connector_from_name,
)
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.s2 import MapSize, S2Config, parse_scales
from biomedgpt_jax.models.vision import VisionConfig, feature_widths
from biomedgpt_jax.models.vit import Features, VitConfig

Json = dict[str, Any]
# What the text and image sides of a whole model say, which the weights do not need.
_SIDES = frozenset(
    {"image_seq_length", "image_token_index", "image_token_id", "ignore_index", "vocab_size", "tie_word_embeddings"}
)
CONNECTOR_KEYS = ("num_queries", "num_resampler", "resampler_", "qformer_", "mof_")
_LLAMA3MED_KEYS = frozenset(
    {
        "image_aspect_ratio",
        "hidden_size",
        "vision_hidden_size",
        "tokenizer_padding_side",
        "tokenizer_model_max_length",
    }
)

_KINDS = {
    "vision_config": OBJECT,
    "vision_config2": OBJECT_OR_NULL,
    "text_config": OBJECT,
    "s2_scales": WORD,
    "connector_type": WORD,
    "vision_feature_layer": WHOLE,
    "vision_feature_norm": FLAG,
}

# Of the connectors that have them.
_CONNECTOR_KINDS = {
    "num_queries": COUNT,
    "num_resampler_layers": COUNT,
    "resampler_heads": COUNT,
    "resampler_head_dim": COUNT,
    "resampler_mlp_ratio": COUNT,
    "resampler_eps": NUMBER,
    "qformer_width": COUNT,
    "qformer_layers": COUNT,
    "qformer_heads": COUNT,
    "qformer_hidden": COUNT,
    "qformer_cross_every": COUNT,
    "qformer_eps": NUMBER,
    "mof_layers": COUNT,
}


def llama3med_config(folder: Path, config: Json) -> Llama3MedConfig:
    """Reads config.json and preprocessor_config.json of one of our own exports.

    Raises:
        RunError: an attribute that we do not handle, in it or in its parts.
    """
    where = str(folder / "config.json")
    connector_keys = {key for key in config if key.startswith(CONNECTOR_KEYS)}
    required = {"vision_config", "text_config", "s2_scales", "s2_resize_output_to_idx", "connector_type"}
    required |= {"vision_feature_layer", "vision_feature_norm", "vision_feature_select_strategy"}
    read = read_attributes(
        config,
        where=where,
        defaults={"vision_config2": None, **dict.fromkeys(connector_keys)},
        required=frozenset(required),
        fixed={
            "model_type": ("llama3med",),
            "vision_feature_select_strategy": ("patch", "cls_patch"),
            "s2_resize_output_to_idx": (0, -1),
        },
        ignored=_SIDES | _LLAMA3MED_KEYS,
    )
    check_kinds(read, _KINDS | {key: kind for key, kind in _CONNECTOR_KINDS.items() if key in config}, where)
    tower = read_preprocessor(folder, _tower(read["vision_config"], f"{where}: vision_config"))
    # The pictures are normalised for the first; the second's own numbers are never used.
    second = None if read["vision_config2"] is None else _tower(read["vision_config2"], f"{where}: vision_config2")
    output = MapSize.LARGEST if read["s2_resize_output_to_idx"] == -1 else MapSize.SMALLEST
    features = Features(
        read["vision_feature_layer"],
        final_norm=read["vision_feature_norm"],
        keep_prefix=read["vision_feature_select_strategy"] == "cls_patch",
    )
    vision = VisionConfig(tower, second, S2Config(parse_scales(read["s2_scales"]), output), features)
    decoder = decoder_config_from_hf(read["text_config"], f"{where}: text_config")
    connector = connector_from_name(read["connector_type"], feature_widths(vision), decoder.width)
    return Llama3MedConfig(vision, _sized(connector, read, where), decoder)


def read_preprocessor(folder: Path, tower: VitConfig) -> VitConfig:
    """The tower with the normalisation of preprocessor_config.json, where there is one."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return tower
    try:
        content = json.loads(file.read_bytes())
        return with_normalisation(tower, content, str(file))
    except (ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{file}: not an image processor's settings ({error}). Download it again.") from error


def _tower(config: Json, where: str) -> VitConfig:
    return tower_reader(config, where).config(config, where)


def _sized(connector: ConnectorConfig, read: Json, where: str) -> ConnectorConfig:
    """The named connector with the sizes that the configuration states."""
    try:
        if isinstance(connector, ResamplerConfig):
            return replace(
                connector,
                queries=read["num_queries"],
                layers=read["num_resampler_layers"],
                heads=read["resampler_heads"],
                head_dim=read["resampler_head_dim"],
                mlp_ratio=read["resampler_mlp_ratio"],
                eps=read["resampler_eps"],
            )
        if isinstance(connector, QFormerConfig):
            return replace(
                connector,
                queries=read["num_queries"],
                width=read["qformer_width"],
                depth=read["qformer_layers"],
                heads=read["qformer_heads"],
                hidden=read["qformer_hidden"],
                act=activation(read["qformer_act"], f"{where}: qformer_act"),
                cross_every=read["qformer_cross_every"],
                eps=read["qformer_eps"],
            )
        if isinstance(connector, MofConfig):
            return replace(connector, layers=read["mof_layers"], act=activation(read["mof_act"], f"{where}: mof_act"))
    except KeyError as error:
        raise RunError(f"{where}: {error} is missing for connector_type {read['connector_type']}.") from error
    return connector
