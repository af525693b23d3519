"""The frozen tower's features in a cache: what they depend on, and opening those that fit a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from biomedgpt_jax.checkpoint.fingerprint import leaf_records, tree_hash
from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.data.features import FeatureCache, FeatureReader, FeatureShape
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.models.vision import feature_widths, tokens_per_image
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import DTYPES, ModelSpec, image_transform, lookup
from biomedgpt_jax.verbs.starting_weights import start_tower
from biomedgpt_jax.verbs.training_checks import begun
from biomedgpt_jax.verbs.training_data import splits


def feature_key(spec: ModelSpec, tower: Params, compute_dtype: str) -> dict[str, Any]:
    """Everything that decides a feature, as flat JSON: weights, tower, scales, geometry of images, dtype.

    Args:
        tower: its parameters in the dtype in which they are held while it runs.
    """
    lookup("model.compute_dtype", compute_dtype, DTYPES)
    square, records = image_transform(spec).keywords, leaf_records(tower)
    return {
        "dtype": compute_dtype,
        "image/size": square["size"],
        "image/geometry": square["geometry"].value,
        "image/background": list(square["background"]),
        "weights": tree_hash(records),
        "weights/dtype": "+".join(sorted({record.dtype for record in records.values()})),
        **{path: value for path, value in leaf_paths(to_json(spec.model.vision)).items() if not path.endswith("type")},
    }


def feature_shape(spec: ModelSpec, compute_dtype: str) -> FeatureShape:
    """Of an image, before the connector."""
    vision = spec.model.vision
    return FeatureShape(tokens_per_image(vision), sum(feature_widths(vision)), compute_dtype)


def open_features(
    cache: FeatureCache, spec: ModelSpec, tower: Params, compute_dtype: str, asked: Sequence[PreparedSplit]
) -> FeatureReader:
    """Raises DataError where the cache is of another tower, of other settings, or lacks an image of `asked`."""
    cache.check(feature_key(spec, tower, compute_dtype))
    return cache.reader(asked)


def training_features(config: Config, spec: ModelSpec, mesh: Mesh, workdir: Path) -> FeatureReader | None:
    """The features that a run reads in the place of images; None where the configuration names no cache.

    Raises:
        UsageError: the tower is to be trained. DataError: see `open_features`.
    """
    if not config.data.features:
        return None
    refuse_trained_tower(config)
    cache = FeatureCache(config.data.features)
    tower = start_tower(config, spec, mesh, workdir if begun(workdir) else None)
    scored = [PreparedSplit(path, config.eval.split) for path in config.eval.paths]
    return open_features(cache, spec, tower, config.model.compute_dtype, [*splits(config), *scored])


def refuse_trained_tower(config: Config) -> None:
    """Raises UsageError where the tower's features change with every step."""
    if config.tune.tower:
        raise UsageError(
            "config.tune.tower = True: what a tower makes of images changes while it is trained, so it can't come from "
            "a cache. Freeze it (--config.tune.tower=False) or train from images (--config.data.features='')."
        )
