"""Turns published weights into a weights folder that configurations can name.

    biomedgpt import --from=downloads/Meta-Llama-3.1-8B-Instruct --out=weights/llama-3.1-8b --dtype=bfloat16
    biomedgpt import --from=downloads/clip-vit-large-patch14-336 --out=weights/clip-l-336
    biomedgpt import --from=downloads/my-lora --base=downloads/Meta-Llama-3.1-8B-Instruct --out=weights/my-llama
    biomedgpt import --from=biomedgpt downloads/vqa_rad_fixed.pt --ema --tokenizer=downloads/BPE --out=weights/vqa-rad

Reads Hugging Face folders (sharded safetensors) of Llama, Qwen2, Gemma, CLIP, SigLIP, DINOv2 and LLaVA, Meta's
consolidated files of Llama, Llama3-Med folders, and H-optimus-0's checkpoint.pth. LoRA adapters (of PEFT, or as the
official Llama3-Med code leaves them) are merged into the model below, which --base names where it is elsewhere. Every
tensor and every attribute is taken, knowingly ignored, or an error.

Of BiomedGPT also fairseq's checkpoint files (.pt), whose pickles are read as plain data: nothing in them can run. What
the model is comes from the settings that the checkpoint stores. --ema takes the moving average of the weights.
"""

from functools import partial
from pathlib import Path

from absl import flags

from biomedgpt_jax.checkpoint.weights import ARRAYS, TABLE
from biomedgpt_jax.convert.importer import TOKENIZER_FILES, Imported, import_folder, save_imported
from biomedgpt_jax.convert.lora_folder import is_lora
from biomedgpt_jax.convert.open_biomedgpt import FAMILY, HF_FAMILY, CheckpointChoices
from biomedgpt_jax.convert.open_biomedgpt import TOKENIZER_FILES as BIOMEDGPT_FILES
from biomedgpt_jax.convert.processing import COMPANIONS
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.model_spec import DTYPES
from biomedgpt_jax.verbs.pair_data import checked_tokenizer
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.spec_file import FILE as RUN_FILE

EXAMPLE = "biomedgpt import --from=downloads/clip-vit-large-patch14-336 --out=weights/clip-l-336"
SEVERAL = ("from",)  # --from=biomedgpt PATH


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("from", None, "Published weights: a folder, or a fairseq checkpoint.", flag_values=values)
    flags.DEFINE_string("base", None, "Folder of the model below adapters, if elsewhere.", flag_values=values)
    flags.DEFINE_bool("ema", False, "Of a checkpoint: the moving average of the weights.", flag_values=values)
    flags.DEFINE_list("harmless", [], "Of a checkpoint: settings that change nothing.", flag_values=values)
    flags.DEFINE_string("tokenizer", None, "Folder with BiomedGPT's tokenizer, if elsewhere.", flag_values=values)
    flags.DEFINE_string("out", None, "Weights folder to write.", flag_values=values)
    flags.DEFINE_enum("dtype", None, list(DTYPES), "As published if not set.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    source, family = _source(command_line.require(values, "from", EXAMPLE))
    out = Path(command_line.require(values, "out", EXAMPLE))
    _refuse_foreign(out)
    if (source / RUN_FILE).is_file():
        raise UsageError(
            f"--from={source} is the workdir of a run. It needs no import: name it as --model or config.init.run, or "
            "export it."
        )
    choices = CheckpointChoices(values.ema, tuple(values.harmless)) if values.ema or values.harmless else None
    imported = import_folder(source, values.base or None, choices=choices, tokenizer=values.tokenizer or None)
    if family and imported.family not in (FAMILY, HF_FAMILY):
        raise UsageError(f"--from={family} {source}: this is a {imported.family}. Leave {family} out.")
    unfit = _unfit_tokenizer(imported)
    if unfit and values.tokenizer:
        raise UsageError(f"--tokenizer: {unfit}")
    with progress() as advance:
        saved = save_imported(imported, out, advance, values.dtype)
    say = partial(make_console().print, markup=False, soft_wrap=True)
    tokenizer = ", with its tokenizer" if imported.tokenizer_files else ""
    merged = ", its adapters merged," if is_lora(source) else ""
    say(f"{imported.family} ({imported.part}) from {source}{merged} is in {out}{tokenizer}; hash {saved.hash}")
    if (wide := saved.dtypes.get("float64")) and not values.dtype:
        say(f"note: {wide} of {sum(saved.dtypes.values())} tensors were float64 and are float32 now")
    if unfit:
        say(f"note: the tokenizer beside the weights will be refused: {unfit}")
    say(f"licence: {imported.licence or 'not stated in the folder; ask its source'}")


def _source(value: str) -> tuple[Path, str]:
    """The path, and the family where the call names one in front of it."""
    family, _, path = value.partition(",")
    if value == FAMILY and not Path(value).exists():
        raise UsageError(f"--from={FAMILY}: name the checkpoint or folder behind it: --from={FAMILY} downloads/base.pt")
    return (Path(path), family) if family == FAMILY and path else (Path(value), "")


def _unfit_tokenizer(imported: Imported) -> str | None:
    """Why the tokenizer that comes with a BiomedGPT can't be the model's."""
    if not imported.tokenizer_files or not isinstance(imported.config, BiomedGptConfig):
        return None
    folder = imported.tokenizer_files[0].parent
    try:
        checked_tokenizer(BiomedGptTokens(folder), imported.config.vocab_size, folder, published=True)
    except (DataError, UsageError) as error:
        return str(error)
    return None


def _refuse_foreign(out: Path) -> None:
    """What an interrupted import left may be written over, anything else may not."""
    try:
        found = {file.name for file in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UsageError(f"--out={out} is no folder ({error.strerror}); choose another name.") from error
    if TABLE in found or not found <= {ARRAYS, *COMPANIONS, *TOKENIZER_FILES, *BIOMEDGPT_FILES}:
        raise UsageError(f"{out} is not empty; choose another folder or delete this one.")
