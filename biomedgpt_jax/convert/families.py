"""The families of published weights: which files they are, what their configuration means, which rules move them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert import decoders, hoptimus, meta, official
from biomedgpt_jax.convert.export_llama3med import llama3med_rules
from biomedgpt_jax.convert.import_model import llama3med_config, read_preprocessor
from biomedgpt_jax.convert.joined import Joined
from biomedgpt_jax.convert.llava import llava_from_hf
from biomedgpt_jax.convert.mapping import Rule
from biomedgpt_jax.convert.open_biomedgpt import HF_FAMILY, open_hf_folder
from biomedgpt_jax.convert.shapes import ModelConfig
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.torch_file import TorchFile
from biomedgpt_jax.convert.towers import rules_for, tower_reader
from biomedgpt_jax.core.errors import RunError

Json = dict[str, Any]
MAX_CONFIG_BYTES = 16_000_000


@dataclass(frozen=True)
class Opened:
    """A folder whose configuration is read, and whose tensors are known by name and shape."""

    part: str  # "decoder", "tower", "connector" or "model": what the leaves are the tree of
    config: ModelConfig
    tensors: Tensors
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...]  # regular expressions of tensors that are knowingly not taken
    asking: Mapping[str, Any] | None = None  # what the weights themselves store of how they are asked


def _decoder(folder: Path, config: Json) -> Opened:
    model = decoders.decoder_config_from_hf(config, str(folder / "config.json"))
    tensors = _tied(SafetensorsFolder(folder), model.tied, "model.embed_tokens.weight", "lm_head.weight")
    return Opened("decoder", model, tensors, decoders.RULES[config["model_type"]], decoders.IGNORED)


def _tower(folder: Path, config: Json) -> Opened:
    where = str(folder / "config.json")
    reader = tower_reader(config, where)
    model = read_preprocessor(folder, reader.config(config, where))
    tensors = weights_of(folder)
    return Opened("tower", model, tensors, rules_for(reader, model, tensors, str(folder)), reader.ignored)


def _llava(folder: Path, config: Json) -> Opened:
    tensors = Joined((SafetensorsFolder(folder), in_whole_model))
    model, rules, ignored = llava_from_hf(config, tensors, str(folder / "config.json"))
    tower = read_preprocessor(folder, model.vision.tower)
    model = replace(model, vision=replace(model.vision, tower=tower))
    return Opened("model", model, tensors, rules, ignored)


def _llama3med(folder: Path, config: Json) -> Opened:
    if (folder / official.CONNECTOR_FOLDER).is_dir() and not any(folder.glob("*.safetensors")):
        connector, tensors, rules = official.open_connector(folder, config)
        return Opened("connector", connector, tensors, rules, ())
    return open_llama3med(folder, config, SafetensorsFolder(folder))


def open_llama3med(folder: Path, config: Json, tensors: Tensors) -> Opened:
    """A whole model by the names of the official code, wherever its tensors are."""
    if official.is_official(config):
        config = official.completed(config, tensors, str(folder / "config.json"))
    model = llama3med_config(folder, config)
    embedding, head = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
    ignored = tuple(rf"language_model\.{pattern}" for pattern in decoders.IGNORED)
    return Opened("model", model, _tied(tensors, model.decoder.tied, embedding, head), llama3med_rules(model), ignored)


def _meta(folder: Path, config: Json) -> Opened:
    model, tensors = meta.open_meta(folder, config)
    return Opened("decoder", model, tensors, decoders.RULES["llama"], meta.IGNORED)


def _biomedgpt(folder: Path, config: Json) -> Opened:
    source = open_hf_folder(folder, config, weights_of(folder))
    return Opened("model", source.config, source.tensors, source.rules, source.ignored)


# By `model_type` of config.json.
FAMILIES: dict[str, Callable[[Path, Json], Opened]] = {
    **dict.fromkeys(("llama", "qwen2", "gemma"), _decoder),
    **dict.fromkeys(("clip", "clip_vision_model", "siglip", "siglip_vision_model"), _tower),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", hoptimus.ARCHITECTURE), _tower),
    meta.FAMILY: _meta,
    "llava": _llava,
    HF_FAMILY: _biomedgpt,
    **dict.fromkeys(official.MODEL_TYPES, _llama3med),
}


def open_published(folder: Path) -> tuple[str, Opened]:
    """The family of a folder of published weights, and what is in it. Nothing large is read.

    Raises:
        RunError: no such folder, an unknown family, or an attribute that we do not handle.
    """
    config = read_config(folder)
    family = config.get("model_type", config.get("architecture"))
    if not isinstance(family, str) or family not in FAMILIES:
        raise RunError(
            f"{folder / 'config.json'}: model_type {family!r} cannot be imported, expected one of "
            f"{', '.join(FAMILIES)}."
        )
    return family, FAMILIES[family](folder, config)


def read_config(folder: Path) -> Json:
    """The content of config.json; of Meta's folders params.json, and a `model_type`.

    Raises:
        RunError: there is none, or it is not a JSON object.
    """
    if folder.is_file():
        raise RunError(f"{folder} is a file, expected the folder that holds config.json and the weights.")
    file = folder / "config.json"
    if not file.is_file() and (folder / meta.PARAMS).is_file():
        return {**read_json(folder / meta.PARAMS), "model_type": meta.FAMILY}
    if not file.is_file() and (folder / hoptimus.FILE).is_file():
        return {"architecture": hoptimus.ARCHITECTURE}  # published without a configuration
    if not file.is_file():
        found = sorted(each.name for each in folder.iterdir())[:10] if folder.is_dir() else []
        state = f"found {', '.join(found) or 'an empty folder'}" if folder.is_dir() else "no such folder"
        raise RunError(f"{file}: not there ({state}), expected a Hugging Face folder with config.json and weights.")
    return read_json(file)


def read_json(file: Path) -> Json:
    """A configuration. Raises RunError where the file is not a JSON object."""
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes")
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"a JSON {type(config).__name__}, expected an object")
    except ValueError as error:
        raise RunError(f"{file}: not a model configuration ({error}). Download it again.") from error
    return config


def weights_of(folder: Path) -> Tensors:
    """Safetensors, else the one PyTorch file of the folder."""
    if any(folder.glob("*.safetensors")):
        return SafetensorsFolder(folder)
    files = sorted([*folder.glob("*.pth"), *folder.glob("pytorch_model.bin")])
    return TorchFile(files[0]) if len(files) == 1 else SafetensorsFolder(folder)


def _tied(tensors: Tensors, tied: bool, embedding: str, head: str) -> Tensors:
    """Some writers store a tied head as well; then it must be the table."""
    if tied and head in tensors and embedding in tensors:
        same_shape = tensors.shape(embedding) == tensors.shape(head)
        if not same_shape or not np.array_equal(tensors[embedding].view(np.uint8), tensors[head].view(np.uint8)):
            raise RunError(
                f"config.json says that the head is tied to the embeddings, but {head} differs from {embedding}. "
                "Set tie_word_embeddings to false in a copy of the folder."
            )
    return tensors


def in_whole_model(key: str) -> str:
    """LLaVA files of some versions have everything below `model.`, and the head beside it."""
    if key == "lm_head.weight":
        return "language_model.lm_head.weight"
    inside = key.removeprefix("model.language_model.")
    return f"language_model.model.{inside}" if inside != key else key.removeprefix("model.")
