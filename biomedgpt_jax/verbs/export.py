"""Turns a run, or imported weights, into a Hugging Face folder, reads it back, and proves that it is the same model.

    biomedgpt export --model=runs/instruct --out=exports/instruct
    biomedgpt export --model=runs/lora --out=exports/lora --form=adapter
    biomedgpt export --model=weights/llama-3.1-8b --out=exports/llama --verify --push-to-hub=my-lab/llama

Forms: auto (stock LLaVA for one scale and a CLIP or SigLIP tower, else llama3med), llava, llama3med (brings its own
small modeling file), decoder (alone, as LlamaForCausalLM, Qwen2 or Gemma), tower (alone, as CLIPVisionModel,
SiglipVisionModel or Dinov2Model; H-optimus-0 as a checkpoint of timm), adapter (LoRA for peft, with the model that it
was trained on, connector included, in the folder `base`). All but the last have their adapters merged. Of a BiomedGPT:
ofa (OFA's Hugging Face folder, which auto means) and fairseq (checkpoint.pt, by the official names).

Weights are read, converted and written one array at a time. parity.json is the certificate: the weights read back bit
for bit and, with PyTorch, tower features, connector, logits and greedy answers compared in float32. Without --verify or
--noverify that is done where torch and transformers are installed and the weights take little of the memory.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from absl import flags

from biomedgpt_jax.convert.card import Card, licence_note, shared_licence
from biomedgpt_jax.convert.export import (
    Exported,
    Form,
    export_adapter_of,
    export_decoder,
    export_model,
    export_tower_alone,
    model_form,
)
from biomedgpt_jax.convert.hub import check_name, push_folder, refuse_credentialed
from biomedgpt_jax.convert.leaves import Leaves, cast
from biomedgpt_jax.convert.processing import ExportText
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.tokenizer_export import to_tokenizer_json
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.vit import VitConfig
from biomedgpt_jax.verbs import command_line, export_biomedgpt
from biomedgpt_jax.verbs.biomedgpt_spec import holds_biomedgpt
from biomedgpt_jax.verbs.certify import certify
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.export_source import Exportable, read_exportable
from biomedgpt_jax.verbs.loaded_model import define_model
from biomedgpt_jax.verbs.model_spec import DTYPES
from biomedgpt_jax.verbs.origins import companions

EXAMPLE = "biomedgpt export --model=runs/small --out=exports/small"
AUTO = "auto"
TITLES = {"model": "Llama3-Med", "decoder": "Decoder of a Llama3-Med", "tower": "Vision tower of a Llama3-Med"}


@dataclass(frozen=True)
class Job:
    """One export: from what, where to, and the part of the source that is written."""

    source: Exportable
    leaves: Leaves
    out: Path
    card: Card
    text: ExportText | None  # None: weights without a tokenizer


def define(values: flags.FlagValues) -> None:
    define_model(values)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_enum("form", AUTO, [AUTO, *(form.value for form in Form)], "What to write.", flag_values=values)
    flags.DEFINE_enum(
        "dtype", None, list(DTYPES), "Of the weights written; of a run float32, else as stored.", flag_values=values
    )
    flags.DEFINE_bool("verify", None, "Compare with PyTorch; by default where that is cheap.", flag_values=values)
    flags.DEFINE_string("push-to-hub", None, "owner/name on the hub to upload to.", flag_values=values)
    flags.DEFINE_bool("private", False, "Make a new repository on the hub private.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    folder = Path(command_line.require(values, "model", EXAMPLE))
    out = Path(command_line.require(values, "out", EXAMPLE))
    hub = values["push-to-hub"].value
    if hub:
        check_name(hub)
    say = partial(make_console().print, markup=False, highlight=False, soft_wrap=True)
    if holds_biomedgpt(folder):
        return export_biomedgpt.export(folder, out, values.form, values, say)
    source = read_exportable(folder, values.step)
    if hub:
        refuse_credentialed(hub, source.origins)
    source = replace(source, template=values.template or source.template, geometry=values.geometry or source.geometry)
    form = choose_form(source, values.form)
    leaves = source.leaves_of(form)
    leaves = cast(leaves, values.dtype) if values.dtype else leaves
    if values.dtype and source.adapted is not None:
        base = cast(source.adapted.base, values.dtype)
        source = replace(source, adapted=replace(source.adapted, base=base))
    with tempfile.TemporaryDirectory() as scratch:
        text = _text(source, form, Path(scratch))
        exported = WRITERS[form](Job(source, leaves, out, _card(source, form, folder), text))
    say(f"{exported.architecture} in {out}")
    for warning in exported.warnings:
        say(f"note: {warning}")
    if not certify(source, leaves, exported, values.verify, say):
        say(f"{out} is not the same model; parity.json says where it differs.")
        return 1
    if hub:
        if note := licence_note(source.origins):
            say(f"note: {note}")
        say(f"uploaded: {push_folder(out, hub, private=values.private)}")
    return 0


def choose_form(source: Exportable, name: str) -> Form:
    """The form asked for, or the one of what the source is.

    Raises:
        UsageError: the source has no such form; says what it has.
    """
    if name in {form.value for form in export_biomedgpt.WRITERS}:
        raise UsageError(f"--form={name} is a form of BiomedGPT, which {source.name} is not.")
    if source.part != "model":
        only = Form(source.part)
        if name not in (AUTO, only.value):
            raise UsageError(f"--form={name}: {source.name} holds a {source.part} alone; export it as {only.value}.")
        return only
    config = source.config
    assert isinstance(config, Llama3MedConfig)
    if name == Form.ADAPTER.value and source.adapted is None:
        raise UsageError(
            f"--form=adapter: {source.name} has no adapters, because it was not trained with LoRA "
            "(config.tune.decoder=lora). Leave --form out for the whole model."
        )
    if name == Form.TOWER.value and config.vision.second is not None:
        raise UsageError(
            f"--form=tower: {source.name} mixes two towers, and the form has place for one. Leave --form out for the "
            "whole model, which has both."
        )
    if name in (Form.DECODER.value, Form.TOWER.value, Form.ADAPTER.value):
        return Form(name)
    return model_form(config, None if name == AUTO else Form(name))


def _whole(job: Job, form: Form) -> Exported:
    config, text, geometry = _asked(job)
    return export_model(job.out, job.leaves, config, text, geometry, job.card, form=form)


def _adapter(job: Job) -> Exported:
    (config, text, geometry), adapted = _asked(job), job.source.adapted
    assert adapted is not None  # see choose_form
    return export_adapter_of(job.out, adapted.factors, adapted.lora, adapted.base, config, text, geometry, job.card)


def _decoder(job: Job) -> Exported:
    config = job.source.config_of(Form.DECODER)
    assert isinstance(config, LlamaConfig)
    return export_decoder(job.out, job.leaves, config, job.text, job.card)


def _tower(job: Job) -> Exported:
    config = job.source.config_of(Form.TOWER)
    assert isinstance(config, VitConfig)
    return export_tower_alone(job.out, job.leaves, config, job.source.geometry, job.card)


WRITERS: dict[Form, Callable[[Job], Exported]] = {
    Form.LLAVA: partial(_whole, form=Form.LLAVA),
    Form.LLAMA3MED: partial(_whole, form=Form.LLAMA3MED),
    Form.DECODER: _decoder,
    Form.TOWER: _tower,
    Form.ADAPTER: _adapter,
}


def _asked(job: Job) -> tuple[Llama3MedConfig, ExportText, str]:
    """What a whole model needs to be asked."""
    config, geometry = job.source.config, job.source.geometry
    assert isinstance(config, Llama3MedConfig) and job.text is not None and geometry
    return config, job.text, geometry


def _text(source: Exportable, form: Form, scratch: Path) -> ExportText | None:
    """The tokenizer as a folder; with the chat template that questions had, where that is known.

    Raises:
        UsageError: a whole model does not say how it is asked. RunError: it has no tokenizer.
    """
    tokenizer, name = source.tokenizer, source.template
    alone = form in (Form.DECODER, Form.TOWER)
    if form is Form.TOWER or (alone and tokenizer is None):
        return None
    if tokenizer is None:
        raise RunError(f"{source.name} holds no tokenizer, which a whole model needs; import it with its tokenizer.")
    missing = [flag for flag, value in (("template", name), ("geometry", source.geometry)) if not value]
    if missing and not alone:
        raise UsageError(
            f"{source.name} does not say its {' and '.join(missing)}; name them with "
            f"{' '.join(f'--{flag}=NAME' for flag in missing)} (biomedgpt export --help lists the names)."
        )
    if name is None:
        for file in source.tokenizer_files:
            shutil.copyfile(file, scratch / file.name)
    else:
        to_tokenizer_json(tokenizer, scratch, TEMPLATES[name])
    return ExportText(
        tokenizer_folder=scratch,
        bos_id=tokenizer.bos_id,
        stop_ids=tuple(tokenizer.stop_ids),
        pad_id=tokenizer.pad_id,
        image_id=tokenizer.image_token_id,
        context=source.context,
        template=name,
    )


def _card(source: Exportable, form: Form, folder: Path) -> Card:
    part = form.value if form in (Form.DECODER, Form.TOWER) else "model"
    return Card(
        title=TITLES[part] if source.part == "model" else Path(source.name).name,
        licence=shared_licence(source.origins),
        origins=source.origins,
        scores=source.scores if part == "model" else (),
        notes=(),
        companions=companions(folder, source.origins),
    )
