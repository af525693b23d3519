"""Our tower configurations written in the vocabulary of Hugging Face; the readers are in the family files."""

from enum import Enum
from typing import Any

from biomedgpt_jax.convert import clip, dinov2, hoptimus, siglip
from biomedgpt_jax.convert.mapping import Rule
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.vit import Interpolation, Positions, VitConfig

Json = dict[str, Any]


class TowerFamily(Enum):
    """The value is the `model_type` in config.json; that of H-optimus is our own."""

    CLIP = "clip_vision_model"
    SIGLIP = "siglip_vision_model"
    DINOV2 = "dinov2"
    DINOV2_REGISTERS = "dinov2_with_registers"
    HOPTIMUS = "hoptimus"


def tower_family(vit: VitConfig) -> TowerFamily:
    """The published family whose layout this tower has.

    Raises:
        RunError: it is of none, so that nothing else could load it.
    """
    class_position = vit.positions is Positions.CLASS_AND_PATCHES
    scaled = vit.layer_scale is not None
    layout = (vit.class_token, class_position, vit.pre_norm, vit.patch_bias, scaled, vit.interpolation)
    plain = not (vit.gated or vit.registers) and vit.qkv_bias
    own_act = vit.act is (Activation.SILU if vit.gated else Activation.GELU)
    refuse, bicubic, antialias = Interpolation.REFUSE, Interpolation.BICUBIC, Interpolation.BICUBIC_ANTIALIAS
    registers = bool(vit.registers)
    families = {
        TowerFamily.CLIP: layout == (True, True, True, False, False, refuse) and plain,
        TowerFamily.SIGLIP: layout == (False, False, False, True, False, refuse) and plain,
        TowerFamily.DINOV2: layout == (True, True, False, True, True, bicubic) and own_act and not registers,
        TowerFamily.DINOV2_REGISTERS: layout == (True, True, False, True, True, antialias) and own_act and registers,
        TowerFamily.HOPTIMUS: layout == (True, False, False, True, True, refuse) and vit.gated and own_act,
    }
    for family, fits in families.items():
        if fits:
            return family
    raise RunError(
        "This tower has the layout of no published family (class token, position of it, first norm, patch bias, "
        f"layer scale, interpolation: {layout}; gated {vit.gated}, registers {vit.registers}), expected that of "
        "CLIP, SigLIP, DINOv2 or H-optimus. Export the decoder alone, or train a tower of a family."
    )


def tower_rules(vit: VitConfig) -> tuple[Rule, ...]:
    """The rules of its family, names on disk without a prefix."""
    families = {
        TowerFamily.CLIP: clip.rules,
        TowerFamily.SIGLIP: siglip.rules,
        TowerFamily.DINOV2: dinov2.rules,
        TowerFamily.DINOV2_REGISTERS: dinov2.rules,
        TowerFamily.HOPTIMUS: hoptimus.rules,
    }
    return families[tower_family(vit)](vit)


def tower_json(vit: VitConfig) -> Json:
    """`vision_config` of an export."""
    family = tower_family(vit)
    common: Json = {
        "model_type": family.value,
        "hidden_size": vit.width,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch,
        "layer_norm_eps": vit.eps,
    }
    match family:
        case TowerFamily.CLIP:
            own: Json = {"intermediate_size": vit.hidden, "hidden_act": vit.act.value, "num_channels": 3}
        case TowerFamily.SIGLIP:
            own = {"intermediate_size": vit.hidden, "hidden_act": vit.act.value, "num_channels": 3}
            own["vision_use_head"] = False
        case TowerFamily.HOPTIMUS:
            own = {"intermediate_size": vit.hidden, "hidden_act": "silu", "num_register_tokens": vit.registers}
        case TowerFamily.DINOV2 | TowerFamily.DINOV2_REGISTERS:
            own = _dinov2(vit)
    return common | own


def _dinov2(vit: VitConfig) -> Json:
    values: Json = {
        "hidden_act": "gelu",  # of the plain MLP; a gated one is SwiGLU whatever this says
        "num_channels": 3,
        "layerscale_value": vit.layer_scale,
        "qkv_bias": vit.qkv_bias,
        "use_swiglu_ffn": vit.gated,
        "mlp_ratio": _mlp_ratio(vit),
    }
    return values | ({"num_register_tokens": vit.registers} if vit.registers else {})


def _mlp_ratio(vit: VitConfig) -> int:
    """DINOv2 states the MLP's width as a multiple; a gated one has two thirds of it, rounded up to 8."""
    for ratio in range(1, 17):
        hidden = vit.width * ratio
        if vit.hidden == ((int(hidden * 2 / 3) + 7) // 8 * 8 if vit.gated else hidden):
            return ratio
    raise RunError(
        f"The MLP of this DINOv2 tower is {vit.hidden} wide at a width of {vit.width}, expected a whole multiple "
        "(two thirds of one, rounded up to 8, where it is gated). Such a tower cannot be written as DINOv2."
    )
