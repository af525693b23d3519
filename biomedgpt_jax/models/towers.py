"""The published vision towers as facts, and a tiny family of the same shapes for tests and first runs."""

from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.vit import Features, Interpolation, Positions, VitConfig

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOPTIMUS_MEAN, HOPTIMUS_STD = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)

PENULTIMATE_PATCHES = Features(layer=-2, final_norm=False, keep_prefix=False)
FINAL_PATCHES = Features(layer=-1, final_norm=True, keep_prefix=False)


def clip(*, image_size: int, patch: int, width: int, depth: int, heads: int, hidden: int) -> VitConfig:
    """OpenAI CLIP: class token, norm before the first block, quick GELU."""
    return VitConfig(
        image_size=image_size,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        act=Activation.QUICK_GELU,
        gated=False,
        pre_norm=True,
        patch_bias=False,
        qkv_bias=True,
        class_token=True,
        registers=0,
        positions=Positions.CLASS_AND_PATCHES,
        interpolation=Interpolation.REFUSE,
        layer_scale=None,
        eps=1e-5,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )


def siglip(*, image_size: int, patch: int, width: int, depth: int, heads: int, hidden: int) -> VitConfig:
    """SigLIP: no class token, tanh GELU."""
    return VitConfig(
        image_size=image_size,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        act=Activation.GELU_TANH,
        gated=False,
        pre_norm=False,
        patch_bias=True,
        qkv_bias=True,
        class_token=False,
        registers=0,
        positions=Positions.PATCHES,
        interpolation=Interpolation.REFUSE,
        layer_scale=None,
        eps=1e-6,
        mean=SIGLIP_MEAN,
        std=SIGLIP_STD,
    )


def dinov2(
    *,
    image_size: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    gated: bool,
    registers: int,
) -> VitConfig:
    """DINOv2: layer scale, interpolated positions (antialiased where there are registers)."""
    return VitConfig(
        image_size=image_size,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        act=Activation.SILU if gated else Activation.GELU,
        gated=gated,
        pre_norm=False,
        patch_bias=True,
        qkv_bias=True,
        class_token=True,
        registers=registers,
        positions=Positions.CLASS_AND_PATCHES,
        interpolation=Interpolation.BICUBIC_ANTIALIAS if registers else Interpolation.BICUBIC,
        layer_scale=1.0,
        eps=1e-6,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def h_optimus(*, image_size: int, width: int, depth: int, heads: int, hidden: int) -> VitConfig:
    """H-optimus: DINOv2 giant with registers whose positions cover the patches only."""
    return VitConfig(
        image_size=image_size,
        patch=14,
        width=width,
        depth=depth,
        heads=heads,
        hidden=hidden,
        act=Activation.SILU,
        gated=True,
        pre_norm=False,
        patch_bias=True,
        qkv_bias=True,
        class_token=True,
        registers=4,
        positions=Positions.PATCHES,
        interpolation=Interpolation.REFUSE,
        layer_scale=1e-5,
        eps=1e-6,
        mean=HOPTIMUS_MEAN,
        std=HOPTIMUS_STD,
    )


_BASE = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072}
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
_SO400M = {"width": 1152, "depth": 27, "heads": 16, "hidden": 4304}
_TINY = {"image_size": 56, "width": 128, "depth": 4, "heads": 4}
_DINO = {
    "small": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536, "gated": False},
    "base": {**_BASE, "gated": False},
    "large": {**_LARGE, "gated": False},
    "giant": {"width": 1536, "depth": 40, "heads": 24, "hidden": 4096, "gated": True},
}

TOWERS: dict[str, VitConfig] = {
    "openai/clip-vit-base-patch32": clip(image_size=224, patch=32, **_BASE),
    "openai/clip-vit-base-patch16": clip(image_size=224, patch=16, **_BASE),
    "openai/clip-vit-large-patch14": clip(image_size=224, patch=14, **_LARGE),
    "openai/clip-vit-large-patch14-336": clip(image_size=336, patch=14, **_LARGE),
    "google/siglip-base-patch16-224": siglip(image_size=224, patch=16, **_BASE),
    "google/siglip-so400m-patch14-384": siglip(image_size=384, patch=14, **_SO400M),
    **{
        f"facebook/dinov2-{suffix}{size}": dinov2(image_size=518, patch=14, registers=registers, **shape)
        for suffix, registers in (("", 0), ("with-registers-", 4))
        for size, shape in _DINO.items()
    },
    "bioptimus/H-optimus-0": h_optimus(image_size=224, width=1536, depth=40, heads=24, hidden=4096),
    # launch/smoke.sh: learns on two CPU cores.
    "smoke-clip": clip(image_size=64, patch=16, width=128, depth=3, heads=4, hidden=512),
    "tiny-clip": clip(patch=8, hidden=512, **_TINY),
    "tiny-siglip": siglip(patch=8, hidden=512, **_TINY),
    "tiny-dinov2": dinov2(patch=8, hidden=512, gated=False, registers=4, **_TINY),
    "tiny-h-optimus": h_optimus(hidden=256, **_TINY),
}

# Layer and tokens that LLaVA and Llama3-Med take: the last block but one, except H-optimus-0.
PUBLISHED_FEATURES: dict[str, Features] = {
    name: FINAL_PATCHES if name.lower().endswith(("h-optimus", "h-optimus-0")) else PENULTIMATE_PATCHES
    for name in TOWERS
}
