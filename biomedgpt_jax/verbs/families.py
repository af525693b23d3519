"""The families of models, by the name in a configuration and by the specification in a run's folder."""

from typing import Any

from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.biomedgpt import BIOMEDGPT
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.family import Family
from biomedgpt_jax.verbs.llama3_med import LLAMA3_MED
from biomedgpt_jax.verbs.model_spec import lookup

FAMILIES: dict[str, Family] = {"llama3_med": LLAMA3_MED, "biomedgpt": BIOMEDGPT}
SECTIONS = ("family", "model", "init", "tokenizer", "data", "optim", "train", "eval", "mesh", "log", "profile")


def training_config(values: Any, example: str) -> Config:
    """The configuration of a training from a verb's flags. Raises UsageError where it is one of another verb."""
    config = command_line.require_config(values, example, SECTIONS)
    return command_line.require_config(values, example, family_of(config).sections)


def family_of(config: Config) -> Family:
    """Raises UsageError for an unknown name."""
    return lookup("family", config.family, FAMILIES)
