"""The families of models, by the name in a configuration and by the specification in a run's folder."""

from pathlib import Path
from typing import Any

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.biomedgpt import BIOMEDGPT
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.family import Family
from biomedgpt_jax.verbs.llama3_med import LLAMA3_MED
from biomedgpt_jax.verbs.model_spec import lookup
from biomedgpt_jax.verbs.spec_file import FILE, spec_name

FAMILIES: dict[str, Family] = {"llama3_med": LLAMA3_MED, "biomedgpt": BIOMEDGPT}
SECTIONS = ("family", "model", "init", "tokenizer", "data", "optim", "train", "eval", "mesh", "log", "profile")


def training_config(values: Any, example: str) -> Config:
    """The configuration of a training from a verb's flags. Raises UsageError where it is one of another verb."""
    config = command_line.require_config(values, example, SECTIONS)
    return command_line.require_config(values, example, family_of(config).sections)


def family_of(config: Config) -> Family:
    """Raises UsageError for an unknown name."""
    return lookup("family", config.family, FAMILIES)


def family_of_run(folder: Path) -> Family:
    """By model.json; the first versions did not name the family in config.json. RunError where it tells none."""
    name, families = spec_name(folder), {each.spec_type.__name__: each for each in FAMILIES.values()}
    if name not in families:
        raise RunError(f"{folder / FILE}: the type is {name!r}, expected one of {', '.join(families)}.")
    return families[name]
