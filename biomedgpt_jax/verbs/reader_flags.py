"""Flags of the verbs that ask a model of either family, and the model that they describe."""

from pathlib import Path

from absl import flags

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.host_memory import keep_freed_memory
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.assistant import Reader
from biomedgpt_jax.verbs.biomedgpt_spec import TASKS, holds_biomedgpt
from biomedgpt_jax.verbs.loaded_model import define_model, load_model
from biomedgpt_jax.verbs.loaded_pairs import load_pairs
from biomedgpt_jax.verbs.med_reader import MedReader
from biomedgpt_jax.verbs.model_spec import DTYPES
from biomedgpt_jax.verbs.pair_reader import PairReader

# Flags of one family, which the other one would not obey.
PAIRS_ONLY = ("task", "image_size", "open")
MED_ONLY = ("template", "geometry")


def define_reader(values: flags.FlagValues) -> None:
    define_model(values)
    flags.DEFINE_integer("batch_rows", 8, "Questions answered together.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "context", 4096, "Tokens that question and answer may take together.", lower_bound=2, flag_values=values
    )
    flags.DEFINE_enum("task", None, list(TASKS), "BiomedGPT: how a question is put.", flag_values=values)
    flags.DEFINE_integer("image_size", 0, "BiomedGPT: pixels, if not as the folder says.", flag_values=values)
    flags.DEFINE_bool("open", False, "BiomedGPT: any words, not its closed list.", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Of the weights.", flag_values=values)


def open_reader(values: flags.FlagValues, example: str) -> Reader:
    """The model that the flags name, loaded.

    Raises:
        UsageError: a flag of the other family, or one that is missing. RunError: a folder that holds no whole model.
    """
    folder = Path(command_line.require(values, "model", example))
    pairs = holds_biomedgpt(folder)
    for name in MED_ONLY if pairs else PAIRS_ONLY:
        if values[name].value:
            raise UsageError(f"--{name}: for a {'Llama3-Med' if pairs else 'BiomedGPT'}; {folder} holds none.")
    keep_freed_memory()
    if not pairs:
        loaded = load_model(folder, values.step, values.dtype, template=values.template, geometry=values.geometry)
        return MedReader(loaded, values.context)
    said = {"task": values.task} if values.task else {}
    said |= {"image_size": values.image_size} if values.image_size else {}
    return PairReader(load_pairs(folder, values.step, values.dtype, said, ""), open=values.open)
