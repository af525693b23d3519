"""Leaf paths and shapes of a configuration, without making the arrays."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax

from biomedgpt_jax.convert.mapping import Shape
from biomedgpt_jax.core.module import Functional
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.models.biomedgpt import BiomedGpt
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig
from biomedgpt_jax.models.connector import (
    ConnectorConfig,
    IdentityConfig,
    MlpConfig,
    MofConfig,
    QFormerConfig,
    ResamplerConfig,
    make_connector,
)
from biomedgpt_jax.models.llama import Llama, LlamaConfig
from biomedgpt_jax.models.llama3_med import Llama3Med, Llama3MedConfig
from biomedgpt_jax.models.vit import Vit, VitConfig

ModelConfig = Llama3MedConfig | BiomedGptConfig | LlamaConfig | VitConfig | ConnectorConfig


@cache
def leaf_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Of a whole model or of a part alone; a part's paths have no level above."""
    match config:
        case Llama3MedConfig():
            return model_shapes(config)
        case BiomedGptConfig():
            return _shapes(lambda rngs: BiomedGpt(config, rngs=rngs))
        case IdentityConfig() | MlpConfig() | ResamplerConfig() | QFormerConfig() | MofConfig():
            return _shapes(lambda rngs: make_connector(config, rngs=rngs))
        case _:
            return part_shapes(config)


def model_shapes(config: Llama3MedConfig) -> dict[str, Shape]:
    """Of the whole model: tower/, connector/, decoder/."""
    return _shapes(lambda rngs: Llama3Med(config, lora=None, rngs=rngs))


def part_shapes(config: LlamaConfig | VitConfig) -> dict[str, Shape]:
    """Of a decoder or a tower alone, without a level above."""
    if isinstance(config, LlamaConfig):
        return _shapes(lambda rngs: Llama(config, lora=None, rngs=rngs))
    return _shapes(lambda rngs: Vit(config, rngs=rngs))


def _shapes(construct: Callable[[Any], Any]) -> dict[str, Shape]:
    leaves = leaf_paths(jax.eval_shape(Functional(construct).init, jax.random.key(0)))
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}
