"""The specification of a Llama3-Med: enough to build the model, ask it, and export it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.checkpoint.weights import TABLE, weights_table
from biomedgpt_jax.convert.processing import ASKING
from biomedgpt_jax.core.config_json import from_json
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.lora import BaseWeights, Lora
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.prompts import TEMPLATES, Template
from biomedgpt_jax.models.connector import ConnectorConfig, MofConfig, connector_from_name
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama import ALL_LINEARS, LlamaConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig, PartRemat, make_llama3_med
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import FINAL_PATCHES, PENULTIMATE_PATCHES, PUBLISHED_FEATURES, TOWERS
from biomedgpt_jax.models.vision import VisionConfig, feature_widths
from biomedgpt_jax.models.vit import Features, Positions, VitConfig
from biomedgpt_jax.verbs.command_line import Config, suggest

LORA_BASES = {"bfloat16": BaseWeights.FLOAT, "int8": BaseWeights.INT8, "nf4": BaseWeights.NF4}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
REMAT = {policy.value: policy for policy in Remat}
Preset = TypeVar("Preset", VitConfig, LlamaConfig)


@dataclass(frozen=True)
class ModelSpec:
    """`template` names how questions are put, `geometry` how pictures become square."""

    model: Llama3MedConfig
    lora: Lora | None
    template: str
    geometry: str


def spec_from_config(config: Config) -> ModelSpec:
    """Builds the specification of a run.

    Raises:
        UsageError: a name that is no preset and no weights folder, or parts that do not fit each other.
    """
    lookup("data.template", config.data.template, TEMPLATES)
    return ModelSpec(
        model=_whole(config) if config.init.weights else _assembled(config),
        lora=_lora(config.lora) if config.tune.decoder == "lora" else None,
        template=config.data.template,
        geometry=Geometry(lookup("data.geometry", config.data.geometry, {g.value: g.value for g in Geometry})).value,
    )


def imported_spec(folder: Path) -> ModelSpec:
    """What a folder of imported weights says of its model; template and geometry are "" where it does not say.

    Raises:
        RunError: the folder holds no weights, or a part of a model alone.
    """
    meta = weights_table(folder)["meta"]
    if meta.get("part") != "model":
        raise RunError(
            f"{folder} holds a {meta.get('part')} alone, and no whole model. A training takes it by its name in "
            "config.model."
        )
    model = from_json(Llama3MedConfig, meta.get("config"), f"{folder / TABLE}: the configuration of a model")
    return ModelSpec(model, None, **read_asking(folder))


def read_asking(folder: Path) -> dict[str, str]:
    """Template and geometry as our exports state them, "" where a folder does not.

    Raises:
        RunError: the file is damaged.
    """
    file = folder / ASKING
    if not file.is_file():
        return {"template": "", "geometry": ""}
    try:
        content = json.loads(file.read_bytes())
        return {key: str(content[key]) for key in ("template", "geometry")}
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{file}: expected a template and a geometry ({error!r}). Export the model again.") from error


def remat_from_config(config: Config) -> PartRemat:
    """Raises UsageError for a name that is no policy."""
    named = config.model.remat
    return PartRemat(*(lookup(f"model.remat.{part}", named[part], REMAT) for part in ("tower", "decoder")))


def build_model(spec: ModelSpec, *, compute_dtype: str, remat: PartRemat) -> ModelFns:
    return make_llama3_med(
        spec.model,
        compute_dtype=lookup("model.compute_dtype", compute_dtype, DTYPES),
        remat=remat,
        lora=spec.lora,
    )


def template(spec: ModelSpec) -> Template:
    return TEMPLATES[spec.template]


def image_transform(spec: ModelSpec) -> Callable[..., np.ndarray]:
    """Encoded bytes to the uint8 square that the tower takes; the padding is the tower's mean colour.

    The function also takes `name=`, what errors are to call the image.
    """
    red, green, blue = (int(255 * value) for value in spec.model.vision.tower.mean)
    size, geometry = spec.model.image_size, Geometry(spec.geometry)
    return partial(load_square, size=size, geometry=geometry, background=(red, green, blue))


def lookup(key: str, name: str, table: Mapping[str, Any]) -> Any:
    """`table[name]`, or a UsageError that names the configuration key and the nearest choice."""
    if name not in table:
        raise UsageError(f"config.{key} = {name!r}: expected one of {', '.join(table)}.{suggest(name, table)}")
    return table[name]


def count_parameters(model: ModelFns) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def _preset_or_folder(name: str, presets: dict[str, Preset], kind: type[Preset], part: str) -> Preset:
    if name in presets:
        return presets[name]
    if not Path(name).is_dir():
        raise UsageError(
            f"config.model.{part} = {name!r} is neither a folder made by `biomedgpt import` nor a preset; "
            f"presets: {', '.join(presets)}.{suggest(name, presets)}"
        )
    meta = weights_table(name)["meta"]
    return from_json(kind, meta.get("config"), f"{name}: the configuration of a {part}")


def _assembled(config: Config) -> Llama3MedConfig:
    """The model that config.model names part by part."""
    named = config.model
    tower = _preset_or_folder(named.tower, TOWERS, VitConfig, "tower")
    second = _preset_or_folder(named.second_tower, TOWERS, VitConfig, "tower") if named.second_tower else None
    decoder = _preset_or_folder(named.decoder, PRESETS, LlamaConfig, "decoder")
    s2 = S2Config(tuple(named.scales), MapSize.LARGEST if named.keep_largest_map else MapSize.SMALLEST)
    vision = VisionConfig(tower, second, s2, _features(named, tower))
    return Llama3MedConfig(vision, _connector(named.connector, feature_widths(vision), decoder.width), decoder)


def _connector(name: str, in_widths: tuple[int, ...], out_width: int) -> ConnectorConfig:
    """A published connector by name, or that of a folder, which must fit the tower and the decoder."""
    if not Path(name).is_dir():
        return connector_from_name(name, in_widths, out_width)
    connector = from_json(
        ConnectorConfig, weights_table(name)["meta"].get("config"), f"{name}: the configuration of a connector"
    )
    found = connector.in_widths if isinstance(connector, MofConfig) else (connector.in_width,)
    if (found, connector.out_width) != (in_widths, out_width):
        raise UsageError(
            f"config.model.connector = {name!r} takes {found} channels and gives {connector.out_width}; the tower at "
            f"these scales gives {in_widths}, the decoder takes {out_width}."
        )
    return connector


def _whole(config: Config) -> Llama3MedConfig:
    """The model in config.init.weights; what config.model says besides must be true of it ("", (), False say nothing).

    Raises:
        UsageError: naming what contradicts.
    """
    named, folder = config.model, Path(config.init.weights)
    model = imported_spec(folder).model
    vision, found = model.vision, []

    def check(key: str, said: Any, holds: Callable[[], bool]) -> None:
        if said and not holds():
            found.append(f"config.model.{key} = {said!r}")

    check("tower", named.tower, lambda: _preset_or_folder(named.tower, TOWERS, VitConfig, "tower") == vision.tower)
    check(
        "second_tower",
        named.second_tower,
        lambda: _preset_or_folder(named.second_tower, TOWERS, VitConfig, "tower") == vision.second,
    )
    check(
        "decoder",
        named.decoder,
        lambda: _preset_or_folder(named.decoder, PRESETS, LlamaConfig, "decoder") == model.decoder,
    )
    check("scales", named.scales, lambda: tuple(named.scales) == vision.s2.scales)
    check("keep_largest_map", named.keep_largest_map, lambda: vision.s2.output is MapSize.LARGEST)
    check("feature_layer", named.feature_layer, lambda: named.feature_layer == vision.features.layer)
    check("final_norm", named.final_norm, lambda: vision.features.final_norm)
    check("keep_prefix", named.keep_prefix, lambda: vision.features.keep_prefix)
    check(
        "connector",
        named.connector,
        lambda: _connector(named.connector, feature_widths(vision), model.decoder.width) == model.connector,
    )
    if found:
        raise UsageError(
            f"config.init.weights = {config.init.weights!r} is another model than {', '.join(found)}. "
            'Its folder says the sizes: leave these empty ("" and ()).'
        )
    return model


def _features(named: Config, tower: VitConfig) -> Features:
    """What the configuration says, and where it is silent what was published for the tower."""
    published = PUBLISHED_FEATURES.get(named.tower)
    if published is None:
        # Positions for the patches alone beside a class token are H-optimus', read after its last norm.
        last = tower.class_token and tower.positions is Positions.PATCHES
        published = FINAL_PATCHES if last else PENULTIMATE_PATCHES
    return Features(
        layer=published.layer if named.feature_layer is None else named.feature_layer,
        final_norm=published.final_norm if named.final_norm is None else named.final_norm,
        keep_prefix=named.keep_prefix,
    )


def _lora(lora: Config) -> Lora:
    base = lookup("lora.base", lora.base, LORA_BASES)
    return Lora(rank=lora.rank, alpha=lora.alpha, targets=ALL_LINEARS, base=base, tile=lora.tile)
