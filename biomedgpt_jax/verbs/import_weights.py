"""Turns published weights into a weights folder that configurations can name.

    biomedgpt import --from=downloads/Meta-Llama-3.1-8B-Instruct --out=weights/llama-3.1-8b --dtype=bfloat16
    biomedgpt import --from=downloads/clip-vit-large-patch14-336 --out=weights/clip-l-336

Reads Hugging Face folders (sharded safetensors) of Llama, Qwen2, Gemma, CLIP, SigLIP, DINOv2 and LLaVA, and
H-optimus-0's checkpoint.pth. Every tensor and every attribute is taken, knowingly ignored, or an error.
"""

from pathlib import Path

from absl import flags

from biomedgpt_jax.convert.importer import import_folder, save_imported
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.model_spec import DTYPES

EXAMPLE = "biomedgpt import --from=downloads/clip-vit-large-patch14-336 --out=weights/clip-l-336"


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("from", None, "Folder with the published weights.", flag_values=values)
    flags.DEFINE_string("out", None, "Weights folder to write.", flag_values=values)
    flags.DEFINE_enum("dtype", None, list(DTYPES), "As published if not set.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    source = Path(command_line.require(values, "from", EXAMPLE))
    out = Path(command_line.require(values, "out", EXAMPLE))
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose another folder or delete this one.")
    imported = import_folder(source)
    digest = save_imported(imported, out, values.dtype)
    say = make_console().print
    tokenizer = ", with its tokenizer" if imported.tokenizer_files else ""
    say(f"{imported.family} ({imported.part}) from {source} is in {out}{tokenizer}; hash {digest}", markup=False)
    say(f"licence: {imported.licence or 'not stated in the folder; ask its source'}", markup=False)
