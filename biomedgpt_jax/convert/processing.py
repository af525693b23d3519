"""What an exported folder knows of text and pictures: tokenizer, chat template, image processor."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedgpt_jax.core.errors import RunError

Json = dict[str, Any]
TOKENIZER_SETTINGS, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
PREPROCESSOR = "preprocessor_config.json"
# What our verbs need to ask an exported model: {"template": name in data.prompts, "geometry": name in data.images}.
ASKING = "biomedgpt.json"
ANSWERS = "answers.json"  # the closed list of a BiomedGPT's answers, as token ids
ORIGINS, LINT = "origins.json", "lint.json"  # what a model was made from, and what was found in its data
COMPANIONS = (ASKING, ANSWERS, ORIGINS, LINT)  # that travel with the weights


@dataclass(frozen=True)
class ExportText:
    """The text side of an export."""

    # Has tokenizer.json, tokenizer_config.json and chat_template.jinja (data.tokenizer_export writes such a
    # folder); other files in it, such as the tokenizer's own model file, are copied too.
    tokenizer_folder: Path
    bos_id: int | None
    stop_ids: tuple[int, ...]  # any of them ends an answer
    pad_id: int
    image_id: int  # stands at image positions
    context: int | None  # tokens that the decoder was made for, where known
    template: str | None  # name of how questions were put in training; None: the tokenizer is copied as it is


@dataclass(frozen=True)
class ExportImages:
    """The picture side: how a picture of any shape became `size` x `size`, and its normalisation."""

    size: int
    geometry: str  # "pad", "resize" or "crop"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def write_tokenizer(folder: Path, text: ExportText) -> None:
    """The tokenizer's files as they are, and generation_config.json."""
    for file in text.tokenizer_folder.iterdir():
        shutil.copyfile(file, folder / file.name)
    generation: Json = {"eos_token_id": list(text.stop_ids), "pad_token_id": text.pad_id, "do_sample": False}
    if text.bos_id is not None:
        generation["bos_token_id"] = text.bos_id
    write_json(folder / "generation_config.json", generation)


def write_text(folder: Path, text: ExportText, *, processor_class: str | None) -> str:
    """As `write_tokenizer`, with the settings completed and the chat template; returns the image token.

    Raises:
        RunError: the tokenizer folder lacks a file or a name.
    """
    source = text.tokenizer_folder
    for name in ("tokenizer.json", TOKENIZER_SETTINGS, CHAT_TEMPLATE):
        if not (source / name).is_file():
            raise RunError(f"{source / name}: not there; an export needs a tokenizer.json folder with a chat template.")
    write_tokenizer(folder, text)
    template = (source / CHAT_TEMPLATE).read_text(encoding="utf-8")
    settings = json.loads((source / TOKENIZER_SETTINGS).read_bytes())
    image = settings.get("extra_special_tokens", {}).get("image_token")
    if not isinstance(image, str):
        raise RunError(f"{source / TOKENIZER_SETTINGS}: extra_special_tokens names no image_token.")
    settings |= {
        "padding_side": "left",  # batches of prompts are continued at their ends
        "model_input_names": ["input_ids", "attention_mask"],
        # Older versions look for it here, or in chat_template.json.
        "chat_template": template,
    }
    if text.context is not None:
        settings["model_max_length"] = text.context
    if processor_class:
        settings["processor_class"] = processor_class
    write_json(folder / TOKENIZER_SETTINGS, settings)
    write_json(folder / "chat_template.json", {"chat_template": template})
    return image


def write_processor(
    folder: Path, images: ExportImages, *, patch: int, extra_tokens: int, strategy: str, image_token: str
) -> None:
    """preprocessor_config.json and processor_config.json of a `LlavaProcessor`.

    Args:
        patch: pixels per side that one image token stands for.
        extra_tokens: tokens in front of the patches, before `strategy` "default" takes one away.
    """
    write_json(folder / PREPROCESSOR, image_processor_json(images) | {"processor_class": "LlavaProcessor"})
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": image_token,
        "patch_size": patch,
        "num_additional_image_tokens": extra_tokens,
        "vision_feature_select_strategy": strategy,
    }
    write_json(folder / "processor_config.json", processor)


def image_processor_json(images: ExportImages) -> Json:
    """The stock image processor that does what our preparation did.

    pad: on a square of the mean colour, then resized. resize: to the square. crop: shortest edge, centre.
    All by Pillow's antialiased bicubic, bit-equal to ours in the processors that use Pillow.

    Raises:
        RunError: another geometry.
    """
    square = {"height": images.size, "width": images.size}
    geometries: dict[str, Json] = {
        "pad": {
            "image_processor_type": "LlavaImageProcessor",
            "do_pad": True,
            "size": {"shortest_edge": images.size},
            "do_center_crop": True,
        },
        "resize": {"image_processor_type": "CLIPImageProcessor", "size": square, "do_center_crop": False},
        "crop": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": images.size},
            "do_center_crop": True,
        },
    }
    if images.geometry not in geometries:
        raise RunError(f"Image geometry {images.geometry!r} is unknown, expected one of {sorted(geometries)}.")
    return {
        **geometries[images.geometry],
        "crop_size": square,
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,  # PIL.Image.BICUBIC
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
    }


def write_json(file: Path, content: Json) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
