"""What a BiomedGPT checkpoint says of its model: the settings that fairseq stored, or OFA's config.json.

Everything is read from there and nothing is assumed: the architectures of the official code set the switches of the
published models to false where a caller leaves them out, which computes something else without a word.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

from biomedgpt_jax.convert.attributes import LEGACY, read_attributes
from biomedgpt_jax.convert.biomedgpt import EMBEDDING
from biomedgpt_jax.convert.fairseq_options import is_training_option
from biomedgpt_jax.convert.kinds import COUNT, FLAG, NUMBER, WORD, Kind, check_kinds
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.models.biomedgpt_config import PRESETS, BiomedGptConfig

Json = dict[str, Any]
RESNETS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23), "resnet152": (3, 8, 36)}
CODE_STRIDE = 8  # pixels per side that a code stands for
UNUSED_POSITIONS = 2  # rows of the table of text positions behind the longest text
# Our own words, for a stem that is none of the published ones.
_BLOCKS, _STEM_WIDTH = "resnet_blocks", "resnet_width"
# Facts that no setting states.
_BASE = PRESETS["base"]

_SIDES = ("encoder", "decoder")
_FAIRSEQ_SIZES = (
    *(f"{side}_{name}" for side in _SIDES for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")),
    "resnet_type",
    "max_source_positions",
    "max_target_positions",
    "token_bucket_size",
    "image_bucket_size",
    "code_image_size",
    "attn_scale_factor",
)
_WIDTHS = ("decoder_input_dim", "decoder_output_dim")
_FAIRSEQ_SWITCHES = ("scale_attn", "scale_fc", "scale_heads", "disable_entangle")
# What must be stated, and only so.
_FAIRSEQ_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu",),
    "add_type_embedding": (True,),
    "code_layernorm_embedding": (True,),
    "decoder_learned_pos": (True,),
    "decoder_normalize_before": (True,),
    "encoder_learned_pos": (True,),
    "encoder_normalize_before": (True,),
    "entangle_position_embedding": (False,),
    "layernorm_embedding": (True,),
    "no_scale_embedding": (True,),
    "patch_layernorm_embedding": (True,),
    "scale_resids": (False,),
    "share_all_embeddings": (True,),
    "share_decoder_input_output_embed": (True,),
    "sync_bn": (False,),  # its norms have another epsilon
}
# What some versions of the official code do not know; where it is stated it must be off.
_OFF = (False, None, 0, "", "False")
_NOTHING = (*_OFF, [], {})  # of a setting that we do not know, and that is not used
_FAIRSEQ_OFF = (
    "adapter",
    "adaptive_softmax_cutoff",
    "cross_self_attention",
    "decoder_layers_to_keep",
    "decoder_prompt",
    "encoder_layers_to_keep",
    "encoder_prompt",
    "interpolate_position",
    "no_cross_attention",
    "no_decoder_final_norm",
    "no_token_positional_embeddings",
)

_HF_SIZES = (
    "d_model",
    *(f"{side}_{name}" for side in _SIDES for name in ("ffn_dim", "layers", "attention_heads")),
    "resnet_type",
    "max_position_embeddings",
    "vocab_size",
    "token_bucket_size",
    "image_bucket_size",
    "code_image_size",
    "attn_scale_factor",
)
_COUNTS = frozenset((*_FAIRSEQ_SIZES, *_HF_SIZES)) - {"resnet_type", "attn_scale_factor"} | {_STEM_WIDTH}
_KINDS = {
    "resnet_type": Kind("a word in quotes or null", lambda value: value is None or WORD.holds(value)),
    "attn_scale_factor": Kind("a number above 0", lambda value: NUMBER.holds(value) and value > 0),
    "token_bucket_size": Kind("a whole number, 2 or more", lambda value: COUNT.holds(value) and value > 1),
}
_HF_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("ofa",),
    "activation_function": ("gelu",),
    "add_type_embedding": (True,),
    "code_layernorm_embedding": (True,),
    "decoder_normalize_before": (True,),
    "encoder_normalize_before": (True,),
    "entangle_position_embedding": (False,),
    "layernorm_embedding": (True,),
    "normformer": (True,),
    "patch_layernorm_embedding": (True,),
    "scale_embedding": (False,),
    "share_decoder_input_output_embed": (True,),
}
# Of transformers, and of the ways in which a model is trained.
_HF_IGNORED = LEGACY | {
    "activation_dropout",
    "attention_dropout",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_drop_path_rate",
    "decoder_layerdrop",
    "dropout",
    "encoder_drop_path_rate",
    "encoder_layerdrop",
    "hidden_size",
    "init_std",
    "num_hidden_layers",
    "resnet_drop_path_rate",
    "resnet_model_path",
}
_HF_OFF = {"add_cross_attention": (False, None), "is_decoder": (False, None), "pruned_heads": ({}, None)}


def config_from_fairseq(
    settings: Mapping[str, Any], tensors: Tensors, where: str, *, harmless: Collection[str] = ()
) -> BiomedGptConfig:
    """The model of the settings that a checkpoint stored; the size of the vocabulary, which is none, from its tensors.

    Args:
        harmless: settings that the caller knows to change nothing.

    Raises:
        RunError: a switch that is not stated, one that we do not know and that is set to anything, or a value that we
            cannot compute; all by name.
    """
    relevant = {
        name: value
        for name, value in settings.items()
        if not (is_training_option(name) or name in harmless) and (_is_known(name) or value not in _NOTHING)
    }
    found = read_attributes(
        relevant,
        where=f"{where}, its stored settings",
        defaults={},
        required=frozenset((*_FAIRSEQ_SIZES, *_FAIRSEQ_SWITCHES, *_FAIRSEQ_FIXED)),
        fixed=_FAIRSEQ_FIXED | dict.fromkeys(_FAIRSEQ_OFF, _OFF),
        ignored=frozenset((*_WIDTHS, _BLOCKS, _STEM_WIDTH)),
        advice="If such a setting acts in training alone, name it with --harmless=NAME; else the model needs new code.",
    )
    if EMBEDDING not in tensors:
        raise RunError(f"{where}: the tensor {EMBEDDING} is missing, which says how large the vocabulary is.")
    return _from_fairseq(found, tensors.shape(EMBEDDING)[0], where)


def config_from_hf(config: Mapping[str, Any], where: str) -> BiomedGptConfig:
    """The model of a config.json with model_type "ofa".

    Raises:
        RunError: an attribute that is missing, that we neither handle nor ignore, or a value that we cannot compute.
    """
    found = read_attributes(
        config,
        where=where,
        defaults={},
        required=frozenset((*_HF_SIZES, *_HF_FIXED)),
        fixed=_HF_FIXED | _HF_OFF,
        ignored=frozenset((*_HF_IGNORED, _BLOCKS, _STEM_WIDTH)),
    )
    fields = {
        **_sized(found, where),
        "width": found["d_model"],
        "mlp_width": _same(found, "ffn_dim", where),
        "vocab_size": found["vocab_size"],
        "text_positions": found["max_position_embeddings"] + UNUSED_POSITIONS,
        "scale_attention": True,
        "scale_mlp": True,
        "scale_heads": True,
        "add_decoder_positions": False,
    }
    return _model(fields, where)


def hf_json(config: BiomedGptConfig, where: str) -> Json:
    """The config.json from which `config_from_hf` reads this model.

    Raises:
        RunError: a model that the Hugging Face form cannot say.
    """
    stated = {
        "architectures": ["OFAModel"],
        "d_model": config.width,
        **{f"{side}_ffn_dim": config.mlp_width for side in _SIDES},
        "max_position_embeddings": config.text_positions - UNUSED_POSITIONS,
        "vocab_size": config.vocab_size,
        **{name: values[0] for name, values in _HF_FIXED.items()},
        **_sizes(config),
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": 2,
        "is_encoder_decoder": True,
        "num_hidden_layers": config.encoder_layers,
    }
    return _saying(stated, config_from_hf(stated, where), config, f"{where}: OFA's Hugging Face form")


def fairseq_settings(config: BiomedGptConfig, where: str) -> Json:
    """The settings from which `config_from_fairseq` reads this model.

    Raises:
        RunError: a model that the settings cannot say.
    """
    positions = config.text_positions - UNUSED_POSITIONS
    stated = {
        "_name": "ofa",
        **{f"{side}_embed_dim": config.width for side in _SIDES},
        **{f"{side}_ffn_embed_dim": config.mlp_width for side in _SIDES},
        "max_source_positions": positions,
        "max_target_positions": positions,
        **{name: values[0] for name, values in _FAIRSEQ_FIXED.items()},
        **_sizes(config),
        "scale_attn": config.scale_attention,
        "scale_fc": config.scale_mlp,
        "scale_heads": config.scale_heads,
        "disable_entangle": not config.add_decoder_positions,
    }
    return _saying(stated, _from_fairseq(stated, config.vocab_size, where), config, f"{where}: a fairseq checkpoint")


def _from_fairseq(found: Mapping[str, Any], vocab_size: int, where: str) -> BiomedGptConfig:
    check_kinds(found, dict.fromkeys(_FAIRSEQ_SWITCHES, FLAG), where)
    fields = _sized(found, where)
    width = _same(found, "embed_dim", where)
    for name in _WIDTHS:
        if found.get(name, width) != width:
            raise RunError(f"{where}: {name} is {found[name]}, expected the width of {width}.")
    source, target = found["max_source_positions"], found["max_target_positions"]
    if source != target:
        raise RunError(f"{where}: max_source_positions is {source}, max_target_positions {target}; expected the same.")
    fields |= {
        "width": width,
        "mlp_width": _same(found, "ffn_embed_dim", where),
        "vocab_size": vocab_size,
        "text_positions": source + UNUSED_POSITIONS,
        "scale_attention": found["scale_attn"],
        "scale_mlp": found["scale_fc"],
        "scale_heads": found["scale_heads"],
        "add_decoder_positions": not found["disable_entangle"],
    }
    return _model(fields, where)


def _saying(stated: Json, said: BiomedGptConfig, meant: BiomedGptConfig, form: str) -> Json:
    if said != meant:
        differing = [
            f"{field.name} ({getattr(meant, field.name)}, it can only say {getattr(said, field.name)})"
            for field in fields(meant)
            if getattr(meant, field.name) != getattr(said, field.name)
        ]
        raise RunError(f"{form} has no word for what this model has: {', '.join(differing)}.")
    return stated


def _sized(found: Mapping[str, Any], where: str) -> Json:
    """The fields that both forms state by the same names."""
    check_kinds(found, {name: COUNT for name in found if name in _COUNTS} | _KINDS, where)
    blocks = RESNETS.get(found["resnet_type"], found.get(_BLOCKS))
    if not isinstance(blocks, list | tuple) or len(blocks) != 3 or not all(map(COUNT.holds, blocks)):
        raise RunError(f"{where}: resnet_type is {found['resnet_type']!r}, expected one of {', '.join(RESNETS)}.")
    return {
        "heads": _same(found, "attention_heads", where),
        "encoder_layers": found["encoder_layers"],
        "decoder_layers": found["decoder_layers"],
        "stem_width": found.get(_STEM_WIDTH, _BASE.stem_width),
        "stem_blocks": tuple(blocks),
        "image_grid": found["image_bucket_size"],
        "code_grid": found["code_image_size"] // CODE_STRIDE,
        "text_buckets": found["token_bucket_size"],
        "position_scale": float(found["attn_scale_factor"]),
    }


def _model(fields: Json, where: str) -> BiomedGptConfig:
    try:
        return replace(_BASE, **fields)
    except UsageError as error:
        raise RunError(f"{where}: {error}") from error


def _sizes(config: BiomedGptConfig) -> Json:
    names = {blocks: name for name, blocks in RESNETS.items()}
    published = config.stem_width == _BASE.stem_width and config.stem_blocks in names
    own = {} if published else {_BLOCKS: list(config.stem_blocks), _STEM_WIDTH: config.stem_width}
    return {
        **{f"{side}_attention_heads": config.heads for side in _SIDES},
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "resnet_type": names[config.stem_blocks] if published else None,
        **own,
        "token_bucket_size": config.text_buckets,
        "image_bucket_size": config.image_grid,
        "code_image_size": config.code_grid * CODE_STRIDE,
        "attn_scale_factor": config.position_scale,
    }


def _same(found: Mapping[str, Any], name: str, where: str) -> Any:
    """A size that encoder and decoder share here."""
    encoder, decoder = (found[f"{side}_{name}"] for side in _SIDES)
    if encoder != decoder:
        raise RunError(f"{where}: encoder_{name} is {encoder}, decoder_{name} {decoder}; expected the same.")
    return encoder


def _is_known(name: str) -> bool:
    return name in (*_FAIRSEQ_SIZES, *_FAIRSEQ_SWITCHES, *_FAIRSEQ_FIXED, *_FAIRSEQ_OFF)
