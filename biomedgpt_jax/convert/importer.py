"""A Hugging Face folder -> our parameters: recognise the family, read its configuration, move each tensor.

Every attribute of config.json and every tensor is handled, knowingly ignored, or an error that names it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.checkpoint.weights import save_weights
from biomedgpt_jax.convert import decoders, hoptimus
from biomedgpt_jax.convert.export_llama3med import llama3med_rules
from biomedgpt_jax.convert.import_model import llama3med_config, read_preprocessor
from biomedgpt_jax.convert.llava import llava_from_hf
from biomedgpt_jax.convert.mapping import import_tensors
from biomedgpt_jax.convert.processing import ASKING
from biomedgpt_jax.convert.shapes import model_shapes, part_shapes
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.torch_file import TorchFile
from biomedgpt_jax.convert.towers import rules_for, tower_reader
from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.vit import VitConfig

Json = dict[str, Any]
ModelConfig = Llama3MedConfig | LlamaConfig | VitConfig
Leaves = Iterator[tuple[str, np.ndarray]]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
H_OPTIMUS_FILE = "checkpoint.pth"
MAX_CONFIG_BYTES = 16_000_000


@dataclass(frozen=True)
class Imported:
    """A model read from elsewhere. `leaves` reads the disk as it is consumed, once."""

    family: str  # `model_type` of its config.json
    part: str  # "decoder", "tower" or "model": what the leaves are the tree of
    config: ModelConfig
    leaves: Leaves
    folder: Path
    licence: str | None
    tokenizer_files: tuple[Path, ...]


def import_folder(path: str | Path) -> Imported:
    """Opens a folder of weights in the layout of Hugging Face.

    Raises:
        RunError: no such folder, an unknown family, an attribute or a tensor that does not fit; from here,
            or from `leaves` as it is consumed.
    """
    folder = Path(path)
    config = read_config(folder)
    family = config.get("model_type", config.get("architecture"))
    if family not in _FAMILIES:
        raise RunError(
            f"{folder / 'config.json'}: model_type {family!r} cannot be imported, expected one of "
            f"{', '.join(_FAMILIES)}."
        )
    part, model, leaves = _FAMILIES[family](folder, config)
    files = [file for name in TOKENIZER_FILES if (file := folder / name).is_file()]
    return Imported(family, part, model, leaves, folder, _licence(folder), tuple(files))


def save_imported(imported: Imported, out: str | Path, dtype: str | None = None) -> str:
    """Writes a folder of weights with its configuration, provenance and tokenizer; returns its hash.

    Args:
        dtype: "float32" or "bfloat16" for all floating leaves; None keeps what the source has.

    Raises:
        RunError: as `import_folder` and `save_weights`.
    """
    out = Path(out)
    cast = (lambda array: array.astype(dtype)) if dtype else (lambda array: array)
    params = from_leaf_paths({path: cast(array) for path, array in imported.leaves})
    meta = {
        "family": imported.family,
        "part": imported.part,
        "config": to_json(imported.config),
        "source": _hashes(imported.folder),
        "licence": imported.licence,
    }
    digest = save_weights(out, params, meta)
    asking = imported.folder / ASKING
    for file in (*imported.tokenizer_files, *([asking] if asking.is_file() else [])):
        shutil.copyfile(file, out / file.name)
    return digest


def read_config(folder: Path) -> Json:
    """The content of config.json.

    Raises:
        RunError: there is none, or it is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file() and (folder / H_OPTIMUS_FILE).is_file():
        return {"architecture": hoptimus.ARCHITECTURE}  # published without a configuration
    if not file.is_file():
        found = sorted(each.name for each in folder.iterdir())[:10] if folder.is_dir() else []
        state = f"found {', '.join(found) or 'an empty folder'}" if folder.is_dir() else "no such folder"
        raise RunError(f"{file}: not there ({state}), expected a Hugging Face folder with config.json and weights.")
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes")
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"a JSON {type(config).__name__}, expected an object")
    except ValueError as error:
        raise RunError(f"{file}: not a model configuration ({error}). Download it again.") from error
    return config


def _decoder(folder: Path, config: Json) -> tuple[str, ModelConfig, Leaves]:
    model = decoders.decoder_config_from_hf(config, str(folder / "config.json"))
    tensors = _tied(SafetensorsFolder(folder), model.tied, "model.embed_tokens.weight", "lm_head.weight")
    rules = decoders.RULES[config["model_type"]]
    return (
        "decoder",
        model,
        import_tensors(tensors, rules, part_shapes(model), where=str(folder), ignored=decoders.IGNORED),
    )


def _tower(folder: Path, config: Json) -> tuple[str, ModelConfig, Leaves]:
    where = str(folder / "config.json")
    reader = tower_reader(config, where)
    model = read_preprocessor(folder, reader.config(config, where))
    tensors = _weights(folder)
    rules = rules_for(reader, model, tensors, str(folder))
    return "tower", model, import_tensors(tensors, rules, part_shapes(model), where=str(folder), ignored=reader.ignored)


def _llava(folder: Path, config: Json) -> tuple[str, ModelConfig, Leaves]:
    tensors = _Renamed(SafetensorsFolder(folder))
    model, rules, ignored = llava_from_hf(config, tensors, str(folder / "config.json"))
    tower = read_preprocessor(folder, model.vision.tower)
    model = replace(model, vision=replace(model.vision, tower=tower))
    return "model", model, import_tensors(tensors, rules, model_shapes(model), where=str(folder), ignored=ignored)


def _llama3med(folder: Path, config: Json) -> tuple[str, ModelConfig, Leaves]:
    model = llama3med_config(folder, config)
    embedding, head = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
    tensors = _tied(SafetensorsFolder(folder), model.decoder.tied, embedding, head)
    ignored = tuple(rf"language_model\.{pattern}" for pattern in decoders.IGNORED)
    rules, shapes = llama3med_rules(model), model_shapes(model)
    return "model", model, import_tensors(tensors, rules, shapes, where=str(folder), ignored=ignored)


_FAMILIES: dict[str, Callable[[Path, Json], tuple[str, ModelConfig, Leaves]]] = {
    **dict.fromkeys(("llama", "qwen2", "gemma"), _decoder),
    **dict.fromkeys(("clip", "clip_vision_model", "siglip", "siglip_vision_model"), _tower),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", hoptimus.ARCHITECTURE), _tower),
    "llava": _llava,
    "llama3med": _llama3med,
}


def _weights(folder: Path) -> Mapping[str, np.ndarray]:
    """Safetensors, else the one PyTorch file of the folder."""
    if any(folder.glob("*.safetensors")):
        return SafetensorsFolder(folder)
    files = sorted([*folder.glob("*.pth"), *folder.glob("pytorch_model.bin")])
    return TorchFile(files[0]) if len(files) == 1 else SafetensorsFolder(folder)


def _tied(tensors: Mapping[str, np.ndarray], tied: bool, embedding: str, head: str) -> Mapping[str, np.ndarray]:
    """Some writers store a tied head as well; then it must be the table."""
    if tied and head in tensors and embedding in tensors:
        table, other = tensors[embedding], tensors[head]
        if table.shape != other.shape or table.tobytes() != other.tobytes():
            raise RunError(
                f"config.json says that the head is tied to the embeddings, but {head} differs from {embedding}. "
                "Set tie_word_embeddings to false in a copy of the folder."
            )
    return tensors


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".pth", ".json"))
    return {file.name: _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _licence(folder: Path) -> str | None:
    """`license:` of the model card's front matter, else the name of a licence file."""
    card = folder / "README.md"
    if card.is_file():
        lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines[:1] == ["---"]:
            for line in lines[1:]:
                if line == "---":
                    break
                if line.startswith("license:"):
                    return line.removeprefix("license:").strip()
    files = sorted(file.name for file in folder.iterdir() if file.name.upper().startswith(("LICENSE", "LICENCE")))
    return f"see {files[0]}" if files else None


class _Renamed(Mapping[str, np.ndarray]):
    """LLaVA files of some versions have everything below `model.`, and the head beside it."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self._tensors = tensors
        self._stored = {_without_model(key): key for key in tensors}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._stored[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _without_model(key: str) -> str:
    if key == "lm_head.weight":
        return "language_model.lm_head.weight"
    inside = key.removeprefix("model.language_model.")
    return f"language_model.model.{inside}" if inside != key else key.removeprefix("model.")
