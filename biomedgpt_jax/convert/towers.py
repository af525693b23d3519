"""Which family a vision tower folder is of, its rules under any prefix, and its normalisation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from biomedgpt_jax.convert import clip, dinov2, hoptimus, siglip
from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.vit import VitConfig


@dataclass(frozen=True)
class TowerReader:
    """What an importer needs to know of a family."""

    config: Callable[[Mapping[str, Any], str], VitConfig]  # content of config.json, its path
    rules: Callable[[VitConfig], tuple[Rule, ...]]
    anchor: str  # a key that only this tower has, so that what precedes it is a prefix
    ignored: tuple[str, ...]  # regular expressions of keys that are knowingly not taken


CLIP = TowerReader(clip.tower_config_from_hf, clip.rules, clip.ANCHOR, clip.IGNORED)
SIGLIP = TowerReader(siglip.tower_config_from_hf, siglip.rules, siglip.ANCHOR, siglip.IGNORED)
DINOV2 = TowerReader(dinov2.tower_config_from_hf, dinov2.rules, dinov2.ANCHOR, dinov2.IGNORED)
HOPTIMUS = TowerReader(hoptimus.tower_config_from_hf, hoptimus.rules, hoptimus.ANCHOR, hoptimus.IGNORED)

_BY_MODEL_TYPE = {
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "hoptimus": HOPTIMUS,
}


def tower_reader(config: Mapping[str, Any], where: str) -> TowerReader:
    """The family that a config.json names by `model_type`, or timm's by `architecture`.

    Raises:
        RunError: another kind of model.
    """
    if config.get("architecture") == hoptimus.ARCHITECTURE:
        return HOPTIMUS
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _BY_MODEL_TYPE:
        raise RunError(
            f"{where}: model_type {family!r} is no vision tower that we know; there are "
            f"{', '.join(sorted(_BY_MODEL_TYPE))}, and timm's {hoptimus.ARCHITECTURE} (H-optimus-0)."
        )
    return _BY_MODEL_TYPE[family]


def rules_for(reader: TowerReader, config: VitConfig, keys: Iterable[str], where: str) -> tuple[Rule, ...]:
    """The family's rules for these keys, whatever stands in front of them (`vision_model.` or nothing).

    Raises:
        RunError: the family's anchor is not among the keys, or more than once.
    """
    prefixes = [key.removesuffix(reader.anchor) for key in keys if key.endswith(reader.anchor)]
    if len(prefixes) != 1:
        raise RunError(
            f"{where}: expected one tensor named ...{reader.anchor}, found {len(prefixes)}. "
            "The weights are not of the model that the configuration names."
        )
    return prefixed(reader.rules(config), theirs=prefixes[0])


def with_normalisation(config: VitConfig, preprocessor: Mapping[str, Any], where: str) -> VitConfig:
    """The tower with mean and std of its preprocessor_config.json instead of the family's.

    Raises:
        RunError: a preprocessor that does not scale to 0..1 and normalise.
    """
    scaled = abs(preprocessor.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-6
    if not (scaled and preprocessor.get("do_rescale", True) and preprocessor.get("do_normalize", True)):
        raise RunError(
            f"{where}: expected do_rescale and do_normalize true and rescale_factor 1/255, found "
            f"{ {k: preprocessor.get(k) for k in ('do_rescale', 'do_normalize', 'rescale_factor')} }."
        )
    mean, std = (
        _three(preprocessor.get(name, default), f"{where}: {name}")
        for name, default in (("image_mean", config.mean), ("image_std", config.std))
    )
    if min(std) <= 0:
        raise RunError(f"{where}: image_std is {list(std)}, expected numbers above 0. Download it again.")
    return replace(config, mean=mean, std=std)


def _three(values: Any, what: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
        if not isfinite(red + green + blue):
            raise ValueError
    except (TypeError, ValueError):
        raise RunError(f"{what} is {values!r}, expected three numbers.") from None
    return red, green, blue
