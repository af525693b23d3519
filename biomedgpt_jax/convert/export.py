"""Our parameters -> a Hugging Face folder that loads elsewhere with the same logits.

Parameters are read, moved and written one at a time. The form of a whole model is chosen by what the model is:
stock LLaVA where it can say it, else our own PyTorch file.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert import decoders, export_adapter, export_llama3med, export_llava, export_tower
from biomedgpt_jax.convert.card import Card, write_card
from biomedgpt_jax.convert.decoder_json import decoder_family, decoder_json
from biomedgpt_jax.convert.leaves import Leaves, Shape
from biomedgpt_jax.convert.mapping import Rule, export_tensors
from biomedgpt_jax.convert.processing import (
    ASKING,
    PREPROCESSOR,
    ExportImages,
    ExportText,
    image_processor_json,
    write_json,
    write_processor,
    write_text,
    write_tokenizer,
)
from biomedgpt_jax.convert.shapes import model_shapes, part_shapes
from biomedgpt_jax.convert.tensors import write_safetensors
from biomedgpt_jax.convert.tower_json import tower_family
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.lora import Lora
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.vit import VitConfig

MAX_SHARD_BYTES = 4_000_000_000
LLAVA, LLAMA3MED = "LlavaForConditionalGeneration", "Llama3MedForConditionalGeneration"
PEFT = "PeftModelForCausalLM"


class Form(Enum):
    """What a folder is."""

    LLAVA = "llava"  # the whole model, no remote code
    LLAMA3MED = "llama3med"  # the whole model, our modeling file in the folder
    DECODER = "decoder"  # alone, as Llama, Qwen2 or Gemma; no remote code
    TOWER = "tower"  # alone, as CLIP, SigLIP or DINOv2; H-optimus as timm's
    OFA = "ofa"  # BiomedGPT as OFA's Hugging Face form
    FAIRSEQ = "fairseq"  # BiomedGPT as a checkpoint by fairseq's names
    ADAPTER = "adapter"  # LoRA for PEFT, and the model below it in the folder `base`


@dataclass(frozen=True)
class Exported:
    folder: Path
    form: Form
    architecture: str  # the class that loads it
    warnings: tuple[str, ...]  # for the user and the card


def export_model(
    folder: str | Path,
    leaves: Leaves,
    config: Llama3MedConfig,
    text: ExportText,
    geometry: str,
    card: Card,
    *,
    form: Form | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Exported:
    """Writes the whole model in the dtypes of its leaves; the folder appears when it is complete.

    Args:
        leaves: tower/, connector/ and decoder/, adapters merged.
        geometry: how pictures became square: "pad", "resize" or "crop".
        form: LLAVA or LLAMA3MED; None chooses LLaVA where it can compute the same.

    Raises:
        UsageError: `form` asks for what it cannot say, or the folder is taken.
        RunError: leaves that are not of this configuration, a tokenizer that does not fit.
    """
    form, images = model_form(config, form), _images(config, geometry)
    architecture, warnings = {Form.LLAVA: LLAVA, Form.LLAMA3MED: LLAMA3MED}[form], _warnings(images)

    def fill(part: Path) -> None:
        _write_model(part, leaves, config, text, images, form, max_shard_bytes)
        _write_card(part, card, architecture, warnings, _facts(config, geometry, leaves))

    return Exported(appear(Path(folder), fill), form, architecture, warnings)


def export_adapter_of(
    folder: str | Path,
    adapters: Leaves,
    lora: Lora,
    base: Leaves,
    config: Llama3MedConfig,
    text: ExportText,
    geometry: str,
    card: Card,
) -> Exported:
    """Writes a PEFT adapter, and in its folder `base` the whole model that it was trained on.

    Args:
        adapters: the low-rank factors.
        base: all other leaves, as `export_model` takes them: also those that were trained beside the factors.

    Raises:
        UsageError, RunError: as `export_model`.
    """
    form, images = model_form(config, None), _images(config, geometry)
    below, warnings = {Form.LLAVA: LLAVA, Form.LLAMA3MED: LLAMA3MED}[form], _warnings(images)

    def fill(part: Path) -> None:
        model = part / export_adapter.BASE
        model.mkdir()
        _write_model(model, base, config, text, images, form, MAX_SHARD_BYTES)
        _write_card(model, card, below, warnings, _facts(config, geometry, base))
        write_json(part / export_adapter.CONFIG, export_adapter.adapter_config(config, below, lora, adapters.shapes))
        export_adapter.write_adapter(part, adapters, export_adapter.adapter_rules(config, below, adapters.shapes))
        facts = (("adapter", f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}"), *_facts(config, geometry, base))
        _write_card(part, card, f"{PEFT} of {below}", warnings, facts)

    return Exported(appear(Path(folder), fill), Form.ADAPTER, PEFT, warnings)


def export_decoder(
    folder: str | Path, leaves: Leaves, config: LlamaConfig, text: ExportText | None, card: Card
) -> Exported:
    """Writes the decoder alone (`leaves` without the `decoder/` level) as a stock causal language model.

    Args:
        text: None leaves the folder without a tokenizer.

    Raises:
        UsageError, RunError: as `export_model`.
    """
    architecture = f"{decoder_family(config).name.title()}ForCausalLM"

    def fill(part: Path) -> None:
        check_leaves(leaves.shapes, part_shapes(config), part)
        content = {"architectures": [architecture], "torch_dtype": str(leaves.dtype), **decoder_json(config, text)}
        write_json(part / "config.json", content)
        if text is not None:
            _check_text(text, config)
            if text.template is None:
                write_tokenizer(part, text)
            else:
                write_text(part, text, processor_class=None)
        rules = decoders.RULES[decoder_family(config).value]
        write_safetensors(part, _tensors(leaves, rules, part), MAX_SHARD_BYTES)
        facts = (("decoder", _decoder_fact(config)), ("weights", str(leaves.dtype)))
        _write_card(part, card, "AutoModelForCausalLM", (), facts)

    return Exported(appear(Path(folder), fill), Form.DECODER, architecture, ())


def export_tower_alone(
    folder: str | Path, leaves: Leaves, config: VitConfig, geometry: str | None, card: Card
) -> Exported:
    """Writes a vision tower alone (`leaves` without the level above) with the settings of its image processor.

    Args:
        geometry: None is that of the family's own processor.

    Raises:
        UsageError, RunError: as `export_model`.
    """
    family = tower_family(config)
    architecture, geometry = export_tower.ARCHITECTURES[family], geometry or export_tower.PUBLISHED_GEOMETRY[family]
    images = ExportImages(config.image_size, geometry, config.mean, config.std)

    def fill(part: Path) -> None:
        check_leaves(leaves.shapes, part_shapes(config), part)
        write_json(part / "config.json", export_tower.tower_config(config, str(leaves.dtype)))
        write_json(part / PREPROCESSOR, image_processor_json(images))
        rules = export_tower.tower_name_rules(config)
        unread = export_tower.unread_tensors(config, leaves)
        write_safetensors(part, chain(unread.items(), _tensors(leaves, rules, part)), MAX_SHARD_BYTES)
        facts = (
            ("image size", f"{config.image_size} x {config.image_size} ({geometry})"),
            ("tower", f"{config.depth} layers of {config.width}, patches of {config.patch}"),
            ("weights", str(leaves.dtype)),
        )
        _write_card(part, card, architecture, (), facts)

    return Exported(appear(Path(folder), fill), Form.TOWER, architecture, ())


def model_form(config: Llama3MedConfig, form: Form | None) -> Form:
    """The form of a whole model; None asks for stock LLaVA where it can compute the same.

    Raises:
        UsageError: stock LLaVA is asked for and cannot; says why.
    """
    obstacles = export_llava.llava_obstacles(config)
    if form is Form.LLAVA and obstacles:
        raise UsageError(
            f"Stock LLaVA cannot express this model: {'; '.join(obstacles)}. Export it as {Form.LLAMA3MED.value}, "
            "which brings its own small modeling file."
        )
    return form or (Form.LLAMA3MED if obstacles else Form.LLAVA)


def model_rules(config: Llama3MedConfig, form: Form) -> tuple[Rule, ...]:
    """Names on disk of a whole model to our paths."""
    return export_llava.llava_name_rules(config) if form is Form.LLAVA else export_llama3med.llama3med_rules(config)


def _write_model(
    part: Path,
    leaves: Leaves,
    config: Llama3MedConfig,
    text: ExportText,
    images: ExportImages,
    form: Form,
    max_shard_bytes: int,
) -> None:
    if form is Form.LLAVA:
        content = export_llava.llava_config(config, text, str(leaves.dtype))
    else:
        content = export_llama3med.llama3med_config(config, text, images.geometry, str(leaves.dtype))
        export_llama3med.copy_modeling_files(part)
    check_leaves(leaves.shapes, model_shapes(config), part)
    _check_text(text, config.decoder)
    write_json(part / "config.json", content)
    write_json(part / ASKING, {"template": text.template, "geometry": images.geometry})
    image_token = write_text(part, text, processor_class="LlavaProcessor")
    write_processor(part, images, image_token=image_token, **_placeholders(config, form))
    write_safetensors(part, _tensors(leaves, model_rules(config, form), part), max_shard_bytes)


def appear(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Fills a neighbour folder and renames it, so that a folder of that name is always complete."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty. Choose another folder for the export, or delete this one.")
    part = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        fill(part)
        if folder.exists():
            folder.rmdir()
        os.rename(part, folder)
    except OSError as error:
        raise RunError(f"{folder}: the export could not be written ({error}).") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def check_leaves(found: Mapping[str, Shape], shapes: Mapping[str, Shape], where: Path) -> None:
    missing, extra = sorted(set(shapes) - set(found)), sorted(set(found) - set(shapes))
    wrong = [path for path in shapes if path in found and tuple(found[path]) != shapes[path]]
    if missing or extra or wrong:
        raise RunError(
            f"{where}: the parameters are not of this configuration.\n  missing: {', '.join(missing[:8]) or 'none'}\n"
            f"  not expected: {', '.join(extra[:8]) or 'none'}\n  of another shape: {', '.join(wrong[:8]) or 'none'}\n"
            "Adapters must be merged before an export."
        )


def _tensors(leaves: Leaves, rules: tuple[Rule, ...], where: Path) -> Iterator[tuple[str, np.ndarray]]:
    return export_tensors(leaves, rules, where=str(where), shapes=leaves.shapes)


def _check_text(text: ExportText, decoder: LlamaConfig) -> None:
    ids = [text.bos_id, text.pad_id, *text.stop_ids, *([] if text.template is None else [text.image_id])]
    highest = max(each for each in ids if each is not None)
    if highest >= decoder.vocab_size:
        raise RunError(
            f"The tokenizer uses id {highest}, the decoder's embedding has {decoder.vocab_size} rows: "
            "they are not of the same model."
        )


def _placeholders(config: Llama3MedConfig, form: Form) -> dict[str, Any]:
    """What makes a LlavaProcessor write as many image tokens as the model gives features."""
    if form is Form.LLAVA:
        tower = config.vision.tower
        return {
            "patch": tower.patch,
            "extra_tokens": int(tower.class_token),
            "strategy": export_llava.llava_strategy(config),
        }
    tokens, size = config.tokens_per_image, config.image_size
    side = round(tokens**0.5)
    # One token stands for a square of several patches at several scales; a resampler's for no place at all.
    patch = size // side if side**2 == tokens and size // (size // side) == side else size
    return {"patch": patch, "extra_tokens": tokens - (size // patch) ** 2, "strategy": "full"}


def _images(config: Llama3MedConfig, geometry: str) -> ExportImages:
    tower = config.vision.tower
    return ExportImages(config.image_size, geometry, tower.mean, tower.std)


def _warnings(images: ExportImages) -> tuple[str, ...]:
    found = [
        "Image processors that use torchvision differ from ours (Pillow) by up to one grey level; "
        "for equal pixels use the Pillow ones, such as LlavaImageProcessorPil."
    ]
    if images.geometry == "crop":
        found.append("Pictures are cropped to their centre square: what lies outside is not seen.")
    return tuple(found)


def _facts(config: Llama3MedConfig, geometry: str, leaves: Leaves) -> tuple[tuple[str, str], ...]:
    vision = config.vision
    return (
        ("image size", f"{config.image_size} x {config.image_size} ({geometry})"),
        ("scales", ", ".join(map(str, vision.s2.scales))),
        ("tokens per image", str(config.tokens_per_image)),
        ("tower", f"{vision.tower.depth} layers of {vision.tower.width}, features of layer {vision.features.layer}"),
        ("connector", type(config.connector).__name__.removesuffix("Config")),
        ("decoder", _decoder_fact(config.decoder)),
        ("weights", str(leaves.dtype)),
    )


def _decoder_fact(decoder: LlamaConfig) -> str:
    return f"{decoder.depth} layers of {decoder.width}, {decoder.vocab_size} tokens"


def _write_card(
    folder: Path, card: Card, architecture: str, warnings: tuple[str, ...], facts: tuple[tuple[str, str], ...]
) -> None:
    noted = replace(card, notes=(*card.notes, *warnings))
    write_card(folder, noted, architecture, facts)
