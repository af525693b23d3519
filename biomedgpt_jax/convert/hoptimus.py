"""H-optimus-0, in the layout of timm: rule table and configuration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from biomedgpt_jax.convert.kinds import OBJECT, check_heads, check_kinds, kinds_of
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.convert.tower_attributes import read_tower_attributes
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.towers import h_optimus
from biomedgpt_jax.models.vit import VitConfig

ANCHOR = "patch_embed.proj.weight"
IGNORED: tuple[str, ...] = ()
ARCHITECTURE = "vit_giant_patch14_reg4_dinov2"  # timm's name
FILE = "checkpoint.pth"  # as it is published, without a configuration

_LAYER = (
    Rule("norm1.weight", "norm1/scale", "d -> d"),
    Rule("norm1.bias", "norm1/bias", "d -> d"),
    Rule("norm2.weight", "norm2/scale", "d -> d"),
    Rule("norm2.bias", "norm2/bias", "d -> d"),
    Rule(
        "attn.qkv.weight",
        ("attention/q/kernel", "attention/k/kernel", "attention/v/kernel"),
        "(n h k) d -> n d h k",
    ),
    Rule("attn.qkv.bias", ("attention/q/bias", "attention/k/bias", "attention/v/bias"), "(n h k) -> n h k"),
    Rule("attn.proj.weight", "attention/out/kernel", "d (h k) -> h k d"),
    Rule("attn.proj.bias", "attention/out/bias", "d -> d"),
    Rule("ls1.gamma", "scale1", "d -> d"),
    Rule("ls2.gamma", "scale2", "d -> d"),
    # Packed SwiGLU: the half that goes through SiLU comes first.
    Rule("mlp.fc1.weight", ("mlp/gate/kernel", "mlp/up/kernel"), "(n f) d -> n d f"),
    Rule("mlp.fc1.bias", ("mlp/gate/bias", "mlp/up/bias"), "(n f) -> n f"),
    Rule("mlp.fc2.weight", "mlp/down/kernel", "d f -> f d"),
    Rule("mlp.fc2.bias", "mlp/down/bias", "d -> d"),
)


def rules(config: VitConfig) -> tuple[Rule, ...]:
    del config
    return (
        Rule("cls_token", "cls_token", "1 1 d -> d"),
        Rule("reg_token", "register_tokens", "1 r d -> r d"),
        Rule("pos_embed", "position_embedding", "1 n d -> n d"),
        Rule("patch_embed.proj.weight", "patch_embed/kernel", "d c p q -> p q c d"),
        Rule("patch_embed.proj.bias", "patch_embed/bias", "d -> d"),
        Rule("norm.weight", "post_norm/scale", "d -> d"),
        Rule("norm.bias", "post_norm/bias", "d -> d"),
        *prefixed(_LAYER, theirs="blocks.{layer}.", ours="layers/"),
    )


def tower_config_from_hf(config: Mapping[str, Any], where: str) -> VitConfig:
    """From the config.json of a timm folder on the hub, or from our own export.

    timm's `model_args` may name sizes; those of H-optimus-0 stand in for what it leaves out.

    Raises:
        RunError: another architecture, or an argument that we do not handle.
    """
    if config.get("model_type") == "hoptimus":
        return _from_our_export(config, where)
    if config.get("architecture") != ARCHITECTURE:
        raise RunError(
            f"{where}: architecture is {config.get('architecture')!r}, expected {ARCHITECTURE} (H-optimus-0)."
        )
    sizes = {
        "img_size": 224,
        "embed_dim": 1536,
        "depth": 40,
        "num_heads": 24,
        "mlp_ratio": 2.66667 * 2,
        "init_values": 1e-5,
        "dynamic_img_size": False,
    }
    stated = {"model_args": config.get("model_args") or {}}
    check_kinds(stated, {"model_args": OBJECT}, where)
    found = stated["model_args"]
    unknown = sorted(found.keys() - sizes.keys())
    if unknown:
        raise RunError(f"{where}: model_args {', '.join(unknown)} are not handled, so the model might differ.")
    if found.get("dynamic_img_size"):
        raise RunError(f"{where}: model_args dynamic_img_size is handled only as false.")
    args = sizes | found
    check_kinds(args, kinds_of(sizes), f"{where}: model_args")
    check_heads(args["embed_dim"], args["num_heads"], f"{where}: model_args")
    return replace(
        h_optimus(
            image_size=args["img_size"],
            width=args["embed_dim"],
            depth=args["depth"],
            heads=args["num_heads"],
            hidden=int(args["embed_dim"] * args["mlp_ratio"]) // 2,
        ),
        layer_scale=args["init_values"],
    )


def _from_our_export(config: Mapping[str, Any], where: str) -> VitConfig:
    """`vision_config` as our own exports write it, in the vocabulary of Hugging Face."""
    sizes = {
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 40,
        "num_attention_heads": 24,
        "image_size": 224,
        "patch_size": 14,
        "num_register_tokens": 4,
        "hidden_act": "silu",
        "layer_norm_eps": 1e-6,
    }
    read = read_tower_attributes(config, defaults=sizes, ignored=frozenset(), where=where)
    if read["hidden_act"] != "silu":
        raise RunError(f"{where}: hidden_act is {read['hidden_act']!r}, expected silu, as in every H-optimus.")
    tower = h_optimus(
        image_size=read["image_size"],
        width=read["hidden_size"],
        depth=read["num_hidden_layers"],
        heads=read["num_attention_heads"],
        hidden=read["intermediate_size"],
    )
    return replace(tower, patch=read["patch_size"], registers=read["num_register_tokens"], eps=read["layer_norm_eps"])
