"""Turns published weights into a weights folder that configurations can name.

    biomedgpt import --from=downloads/Meta-Llama-3.1-8B-Instruct --out=weights/llama-3.1-8b --dtype=bfloat16
    biomedgpt import --from=downloads/clip-vit-large-patch14-336 --out=weights/clip-l-336
    biomedgpt import --from=downloads/my-lora --base=downloads/Meta-Llama-3.1-8B-Instruct --out=weights/my-llama

Reads Hugging Face folders (sharded safetensors) of Llama, Qwen2, Gemma, CLIP, SigLIP, DINOv2 and LLaVA, Meta's
consolidated files of Llama, Llama3-Med folders, and H-optimus-0's checkpoint.pth. LoRA adapters (of PEFT, or as the
official Llama3-Med code leaves them) are merged into the model below, which --base names where it is elsewhere. Every
tensor and every attribute is taken, knowingly ignored, or an error.
"""

from pathlib import Path

from absl import flags

from biomedgpt_jax.checkpoint.weights import ARRAYS, TABLE
from biomedgpt_jax.convert.importer import TOKENIZER_FILES, import_folder, save_imported
from biomedgpt_jax.convert.lora_folder import is_lora
from biomedgpt_jax.convert.processing import ASKING
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.model_spec import DTYPES
from biomedgpt_jax.verbs.progress import progress

EXAMPLE = "biomedgpt import --from=downloads/clip-vit-large-patch14-336 --out=weights/clip-l-336"


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("from", None, "Folder with the published weights.", flag_values=values)
    flags.DEFINE_string("base", None, "Folder of the model below adapters, if elsewhere.", flag_values=values)
    flags.DEFINE_string("out", None, "Weights folder to write.", flag_values=values)
    flags.DEFINE_enum("dtype", None, list(DTYPES), "As published if not set.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    source = Path(command_line.require(values, "from", EXAMPLE))
    out = Path(command_line.require(values, "out", EXAMPLE))
    _refuse_foreign(out)
    imported = import_folder(source, values.base or None)
    with progress() as advance:
        digest = save_imported(imported, out, advance, values.dtype)
    say = make_console().print
    tokenizer = ", with its tokenizer" if imported.tokenizer_files else ""
    merged = ", its adapters merged," if is_lora(source) else ""
    say(
        f"{imported.family} ({imported.part}) from {source}{merged} is in {out}{tokenizer}; hash {digest}",
        markup=False,
        soft_wrap=True,
    )
    say(f"licence: {imported.licence or 'not stated in the folder; ask its source'}", markup=False)


def _refuse_foreign(out: Path) -> None:
    """What an interrupted import left may be written over, anything else may not."""
    try:
        found = {file.name for file in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UsageError(f"--out={out} is no folder ({error.strerror}); choose another name.") from error
    if TABLE in found or not found <= {ARRAYS, ASKING, *TOKENIZER_FILES}:
        raise UsageError(f"{out} is not empty; choose another folder or delete this one.")
