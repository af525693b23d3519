"""A vision tower alone: a folder that transformers loads as its family's vision model, H-optimus-0 as timm's."""

from typing import Any

import numpy as np

from biomedgpt_jax.convert import hoptimus
from biomedgpt_jax.convert.leaves import Leaves
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.convert.tower_json import TowerFamily, tower_family, tower_json, tower_rules
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.towers import h_optimus
from biomedgpt_jax.models.vit import VitConfig

Json = dict[str, Any]

ARCHITECTURES = {
    TowerFamily.CLIP: "CLIPVisionModel",
    TowerFamily.SIGLIP: "SiglipVisionModel",
    TowerFamily.DINOV2: "Dinov2Model",
    TowerFamily.DINOV2_REGISTERS: "Dinov2WithRegistersModel",
    TowerFamily.HOPTIMUS: hoptimus.ARCHITECTURE,
}
# How the family's own processors make a picture square.
PUBLISHED_GEOMETRY = {family: "crop" for family in TowerFamily} | {TowerFamily.SIGLIP: "resize"}


def tower_config(vit: VitConfig, dtype: str) -> Json:
    """The content of config.json.

    Raises:
        RunError: a tower of no family, or an H-optimus that timm's arguments cannot say.
    """
    family = tower_family(vit)
    if family is TowerFamily.HOPTIMUS:
        return _timm(vit)
    return {"architectures": [ARCHITECTURES[family]], "torch_dtype": dtype, **tower_json(vit)}


def tower_name_rules(vit: VitConfig) -> tuple[Rule, ...]:
    """Names on disk, in the spelling that every version of transformers reads, to the paths of a tower."""
    head = "vision_model." if tower_family(vit) in (TowerFamily.CLIP, TowerFamily.SIGLIP) else ""
    return prefixed(tower_rules(vit), theirs=head)


def unread_tensors(vit: VitConfig, leaves: Leaves) -> dict[str, np.ndarray]:
    """What transformers expects in the file and no forward pass reads: DINOv2's token for masked pre-training."""
    if tower_family(vit) not in (TowerFamily.DINOV2, TowerFamily.DINOV2_REGISTERS):
        return {}
    return {"embeddings.mask_token": np.zeros((1, vit.width), leaves.dtype)}


def _timm(vit: VitConfig) -> Json:
    published = h_optimus(
        image_size=vit.image_size, width=vit.width, depth=vit.depth, heads=vit.heads, hidden=vit.hidden
    )
    fixed = {name: getattr(vit, name) for name in ("patch", "registers", "eps")}
    expected = {name: getattr(published, name) for name in fixed}
    if fixed != expected:
        raise RunError(
            f"timm's {hoptimus.ARCHITECTURE} has {expected}, this tower has {fixed}; it cannot be written alone. "
            "Export the whole model (--form=auto)."
        )
    return {
        "architecture": hoptimus.ARCHITECTURE,
        "num_classes": 0,
        "num_features": vit.width,
        "global_pool": "token",
        "model_args": {
            "img_size": vit.image_size,
            "embed_dim": vit.width,
            "depth": vit.depth,
            "num_heads": vit.heads,
            # timm rounds down to a whole width.
            "mlp_ratio": (2 * vit.hidden + 0.5) / vit.width,
            "init_values": vit.layer_scale,
            "dynamic_img_size": False,
        },
        "pretrained_cfg": {
            "input_size": [3, vit.image_size, vit.image_size],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(vit.mean),
            "std": list(vit.std),
            "num_classes": 0,
        },
    }
