"""Any model with our own PyTorch file beside the weights, under the names of the official Llama3-Med."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from biomedgpt_jax.convert import decoders
from biomedgpt_jax.convert.connector import official_rules
from biomedgpt_jax.convert.decoder_json import DecoderFamily, decoder_family, decoder_json
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.convert.processing import ExportText
from biomedgpt_jax.convert.tower_json import TowerFamily, tower_family, tower_json, tower_rules
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.connector import (
    ConnectorConfig,
    IdentityConfig,
    MlpConfig,
    MofConfig,
    QFormerConfig,
    ResamplerConfig,
)
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.s2 import MapSize
from biomedgpt_jax.models.vit import VitConfig

Json = dict[str, Any]

MODELING_FILES = ("modeling_llama3med.py", "vit_llama3med.py")
CLASSES = {"AutoConfig": "Llama3MedConfig", "AutoModelForCausalLM": "Llama3MedForConditionalGeneration"}
TOWER_PREFIX = "vision_tower._vision_tower."
CONNECTOR_PREFIX = "connector._connector."
DECODER_PREFIX = "language_model."
# Of a mixture of features, as the official code names its two towers.
MIXED = ("clip.", "dinov2.")


def llama3med_config(config: Llama3MedConfig, text: ExportText, geometry: str, dtype: str) -> Json:
    """The content of config.json: the official keys, and what they leave open.

    Raises:
        RunError: a part that the modeling file does not have.
    """
    vision, features = config.vision, config.vision.features
    if decoder_family(config.decoder) is DecoderFamily.GEMMA:
        raise RunError("Gemma scales image features with the token embeddings, which our model does not; no export.")
    decoder = decoder_json(config.decoder, text)
    return {
        "architectures": [CLASSES["AutoModelForCausalLM"]],
        "auto_map": {auto: f"{MODELING_FILES[0].removesuffix('.py')}.{name}" for auto, name in CLASSES.items()},
        "model_type": "llama3med",
        "text_config": decoder,
        "vision_config": tower_json(vision.tower),
        "vision_config2": None if vision.second is None else tower_json(vision.second),
        **_connector(config.connector),
        "s2_scales": ",".join(map(str, vision.s2.scales)),
        "s2_resize_output_to_idx": -1 if vision.s2.output is MapSize.LARGEST else 0,
        "vision_feature_layer": features.layer,
        "vision_feature_norm": features.final_norm,
        "vision_feature_select_strategy": "cls_patch" if features.keep_prefix else "patch",
        "image_aspect_ratio": geometry,
        "image_token_index": text.image_id,
        "image_seq_length": config.tokens_per_image,
        "ignore_index": -100,
        "hidden_size": config.decoder.width,
        "vocab_size": config.decoder.vocab_size,
        "vision_hidden_size": sum(tower.width for tower in vision.towers) * len(vision.s2.scales),
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": text.context,
        "pad_token_id": text.pad_id,
        "tie_word_embeddings": config.decoder.tied,
        "torch_dtype": dtype,
    }


def llama3med_rules(config: Llama3MedConfig) -> tuple[Rule, ...]:
    """Their names on disk to the paths of the whole model."""
    vision, decoder = config.vision, decoder_family(config.decoder).value
    inside = MIXED if vision.second is not None else ("",)
    ours = ("tower/first/", "tower/second/") if vision.second is not None else ("tower/",)
    of_towers = [
        prefixed(tower_rules(tower), theirs=TOWER_PREFIX + name + _head(tower), ours=path)
        for tower, name, path in zip(vision.towers, inside, ours, strict=True)
    ]
    return (
        *(rule for rules in of_towers for rule in rules),
        *prefixed(official_rules(config.connector), theirs=CONNECTOR_PREFIX, ours="connector/"),
        *prefixed(decoders.RULES[decoder], theirs=DECODER_PREFIX, ours="decoder/"),
    )


def copy_modeling_files(folder: Path) -> None:
    for name in MODELING_FILES:
        (folder / name).write_bytes(files("biomedgpt_jax.convert.modeling").joinpath(name).read_bytes())


def _head(tower: VitConfig) -> str:
    return "vision_model." if tower_family(tower) in (TowerFamily.CLIP, TowerFamily.SIGLIP) else ""


def _connector(connector: ConnectorConfig) -> Json:
    match connector:
        case IdentityConfig():
            return {"connector_type": "identity"}
        case MlpConfig(layers=1):
            return {"connector_type": "linear"}
        case MlpConfig():
            return {"connector_type": f"mlp{connector.layers}x_{connector.act.value}"}
        case ResamplerConfig():
            return {
                "connector_type": "resampler",
                "num_queries": connector.queries,
                "num_resampler_layers": connector.layers,
                "resampler_heads": connector.heads,
                "resampler_head_dim": connector.head_dim,
                "resampler_mlp_ratio": connector.mlp_ratio,
                "resampler_eps": connector.eps,
            }
        case MofConfig():
            return {"connector_type": "mof_mlp", "mof_layers": connector.layers, "mof_act": connector.act.value}
        case QFormerConfig():
            return {
                "connector_type": "qformer",
                "num_queries": connector.queries,
                "qformer_width": connector.width,
                "qformer_layers": connector.depth,
                "qformer_heads": connector.heads,
                "qformer_hidden": connector.hidden,
                "qformer_act": connector.act.value,
                "qformer_cross_every": connector.cross_every,
                "qformer_eps": connector.eps,
            }
