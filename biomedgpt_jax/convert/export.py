"""Our parameters -> a Hugging Face folder that loads elsewhere with the same logits.

The form is chosen by what the model is: stock LLaVA where it can say it, else our own PyTorch file.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert import decoders, export_llama3med, export_llava
from biomedgpt_jax.convert.card import USAGE, Card, render_card
from biomedgpt_jax.convert.decoder_json import decoder_family, decoder_json
from biomedgpt_jax.convert.mapping import Rule, export_tensors
from biomedgpt_jax.convert.processing import (
    ASKING,
    ExportImages,
    ExportText,
    write_json,
    write_processor,
    write_text,
)
from biomedgpt_jax.convert.shapes import model_shapes, part_shapes
from biomedgpt_jax.convert.tensors import write_safetensors
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig


class Form(Enum):
    """The value is how the folder names its architecture."""

    LLAVA = "LlavaForConditionalGeneration"  # no remote code
    LLAMA3MED = "Llama3MedForConditionalGeneration"  # our modeling file in the folder
    DECODER = "LlamaForCausalLM"  # or Qwen2 or Gemma; no remote code


@dataclass(frozen=True)
class Exported:
    folder: Path
    form: Form
    warnings: tuple[str, ...]  # for the user and the card


def export_model(
    folder: str | Path,
    params: Params,
    config: Llama3MedConfig,
    text: ExportText,
    geometry: str,
    card: Card,
    *,
    form: Form | None = None,
    dtype: str = "float32",
    max_shard_bytes: int = 4_000_000_000,
) -> Exported:
    """Writes the whole model; the folder appears when it is complete.

    Args:
        params: tower/, connector/ and decoder/, adapters merged; float leaves of any dtype.
        geometry: how pictures became square: "pad", "resize" or "crop".
        form: None chooses LLaVA where it can compute the same, else our modeling file.
        dtype: of all weights written: float32, bfloat16 or float16.

    Raises:
        UsageError: `form` asks for what it cannot say, or the folder is taken.
        RunError: parameters that are not of this configuration, a tokenizer that does not fit.
    """
    obstacles = export_llava.llava_obstacles(config)
    form = form or (Form.LLAMA3MED if obstacles else Form.LLAVA)
    if form is Form.DECODER:
        raise UsageError("The decoder alone is written by export_decoder.")
    if form is Form.LLAVA and obstacles:
        raise UsageError(
            f"Stock LLaVA cannot express this model: {'; '.join(obstacles)}. Export it as {Form.LLAMA3MED.value}."
        )
    images = ExportImages(config.image_size, geometry, config.vision.tower.mean, config.vision.tower.std)
    warnings = _warnings(images)

    def fill(part: Path) -> None:
        if form is Form.LLAVA:
            content, rules = export_llava.llava_config(config, text, dtype), export_llava.llava_name_rules(config)
        else:
            content = export_llama3med.llama3med_config(config, text, geometry, dtype)
            rules = export_llama3med.llama3med_rules(config)
            export_llama3med.copy_modeling_files(part)
        leaves = _leaves(params, model_shapes(config), part)
        _check_text(text, config.decoder)
        write_json(part / "config.json", content)
        write_json(part / ASKING, {"template": text.template, "geometry": geometry})
        image_token = write_text(part, text, processor_class="LlavaProcessor")
        write_processor(part, images, image_token=image_token, **_placeholders(config, form))
        write_safetensors(part, _tensors(leaves, rules, dtype, part), max_shard_bytes)
        _write_card(part, card, form, warnings, _facts(config, geometry, dtype))

    return Exported(_appear(Path(folder), fill), form, warnings)


def export_decoder(
    folder: str | Path, params: Params, config: LlamaConfig, text: ExportText, card: Card, *, dtype: str = "float32"
) -> Exported:
    """Writes the decoder alone (`params` without the `decoder/` level) as a stock causal language model.

    Raises:
        UsageError, RunError: as `export_model`.
    """

    def fill(part: Path) -> None:
        family = decoder_family(config)
        leaves = _leaves(params, part_shapes(config), part)
        _check_text(text, config)
        content = decoder_json(config, context=text.context, bos=text.bos_id, stop=text.stop_ids, pad=text.pad_id)
        architecture = {"architectures": [f"{family.name.title()}ForCausalLM"], "torch_dtype": dtype}
        write_json(part / "config.json", architecture | content)
        write_text(part, text, processor_class=None)
        write_safetensors(part, _tensors(leaves, decoders.RULES[family.value], dtype, part))
        _write_card(part, card, Form.DECODER, (), (("architecture", architecture["architectures"][0]),))

    return Exported(_appear(Path(folder), fill), Form.DECODER, ())


def _appear(folder: Path, fill: Callable[[Path], None]) -> Path:
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


def _leaves(params: Params, shapes: Mapping[str, tuple[int, ...]], where: Path) -> dict[str, np.ndarray]:
    leaves = leaf_paths(params)
    missing, extra = sorted(set(shapes) - set(leaves)), sorted(set(leaves) - set(shapes))
    wrong = [path for path in shapes if path in leaves and tuple(leaves[path].shape) != shapes[path]]
    if missing or extra or wrong:
        raise RunError(
            f"{where}: the parameters are not of this configuration.\n  missing: {', '.join(missing[:8]) or 'none'}\n"
            f"  not expected: {', '.join(extra[:8]) or 'none'}\n  of another shape: {', '.join(wrong[:8]) or 'none'}\n"
            "Adapters must be merged before an export."
        )
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


def _tensors(
    leaves: Mapping[str, np.ndarray], rules: tuple[Rule, ...], dtype: str, where: Path
) -> Iterator[tuple[str, np.ndarray]]:
    kind = np.dtype(dtype)
    for key, array in export_tensors(leaves, rules, where=str(where)):
        yield key, array.astype(kind, copy=False)


def _check_text(text: ExportText, decoder: LlamaConfig) -> None:
    ids = [text.bos_id, text.pad_id, text.image_id, *text.stop_ids]
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


def _warnings(images: ExportImages) -> tuple[str, ...]:
    found = [
        "Image processors that use torchvision differ from ours (Pillow) by up to one grey level; "
        "for equal pixels use the Pillow ones, such as LlavaImageProcessorPil."
    ]
    if images.geometry == "crop":
        found.append("Pictures are cropped to their centre square: what lies outside is not seen.")
    return tuple(found)


def _facts(config: Llama3MedConfig, geometry: str, dtype: str) -> tuple[tuple[str, str], ...]:
    vision, decoder = config.vision, config.decoder
    return (
        ("image size", f"{config.image_size} x {config.image_size} ({geometry})"),
        ("scales", ", ".join(map(str, vision.s2.scales))),
        ("tokens per image", str(config.tokens_per_image)),
        ("tower", f"{vision.tower.depth} layers of {vision.tower.width}, features of layer {vision.features.layer}"),
        ("connector", type(config.connector).__name__.removesuffix("Config")),
        ("decoder", f"{decoder.depth} layers of {decoder.width}, {decoder.vocab_size} tokens"),
        ("weights", dtype),
    )


def _write_card(
    folder: Path, card: Card, form: Form, warnings: tuple[str, ...], facts: tuple[tuple[str, str], ...]
) -> None:
    noted = Card(card.title, card.licence, card.origins, card.scores, (*card.notes, *warnings))
    (folder / "README.md").write_text(render_card(noted, usage=USAGE[form.value], facts=facts), encoding="utf-8")
