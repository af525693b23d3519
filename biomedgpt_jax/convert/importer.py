"""A folder of published weights -> our parameters: recognise the family, read its configuration, move each tensor.

Every attribute of config.json and every tensor is handled, knowingly ignored, or an error that names it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biomedgpt_jax.checkpoint.stream import WeightsStream
from biomedgpt_jax.convert import hoptimus, meta
from biomedgpt_jax.convert.families import FAMILIES, Json
from biomedgpt_jax.convert.mapping import Shape, Slice, import_slices, whole_leaves
from biomedgpt_jax.convert.processing import ASKING
from biomedgpt_jax.convert.shapes import ModelConfig, leaf_shapes
from biomedgpt_jax.convert.source import SourceFile
from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import RunError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
H_OPTIMUS_FILE = "checkpoint.pth"
MAX_CONFIG_BYTES = 16_000_000
MILLION = 1_000_000


@dataclass(frozen=True)
class Imported:
    """A model read from elsewhere. `slices` and `leaves` read the disk as they are consumed, once in all."""

    family: str  # `model_type` of its config.json
    part: str  # "decoder", "tower", "connector" or "model": what the leaves are the tree of
    config: ModelConfig
    shapes: Mapping[str, Shape]  # of all leaves
    slices: Iterator[Slice]  # views of one tensor after the other, in the order of the files
    files: tuple[SourceFile, ...]
    folder: Path
    licence: str | None
    tokenizer_files: tuple[Path, ...]

    @property
    def leaves(self) -> Iterator[tuple[str, np.ndarray]]:
        """(path, array), each leaf when its last layer has come."""
        return whole_leaves(self.slices, self.shapes)


def import_folder(path: str | Path) -> Imported:
    """Opens a folder of published weights. Nothing large is read, but everything is checked.

    Raises:
        RunError: no such folder, an unknown family, an attribute or a tensor that does not fit.
    """
    folder = Path(path)
    config = read_config(folder)
    family = config.get("model_type", config.get("architecture"))
    if family not in FAMILIES:
        raise RunError(
            f"{folder / 'config.json'}: model_type {family!r} cannot be imported, expected one of "
            f"{', '.join(FAMILIES)}."
        )
    opened = FAMILIES[family](folder, config)
    shapes = leaf_shapes(opened.config)
    slices = import_slices(opened.tensors, opened.rules, shapes, where=str(folder), ignored=opened.ignored)
    tokenizer = tuple(file for name in TOKENIZER_FILES if (file := folder / name).is_file())
    return Imported(
        family=family,
        part=opened.part,
        config=opened.config,
        shapes=shapes,
        slices=slices,
        files=opened.tensors.files,
        folder=folder,
        licence=_licence(folder),
        tokenizer_files=tokenizer,
    )


def save_imported(
    imported: Imported, out: str | Path, advance: Callable[[str, int, int | None], None], dtype: str | None = None
) -> str:
    """Streams a folder of weights with its configuration, provenance and tokenizer; returns its hash.

    In memory are the tensor being read, and a few slices on their way to the disk.

    Args:
        advance: is told (what, done, total) after each slice.
        dtype: "float32" or "bfloat16" for all floating leaves; None keeps what the source has.

    Raises:
        RunError: as `import_folder` and `WeightsStream`.
    """
    out = Path(out)
    for file in imported.files:
        file.begin_hash()
    done, total = 0, sum(int(np.prod(shape)) for shape in imported.shapes.values())
    with WeightsStream(out, imported.shapes, dtype) as stream:
        asking = imported.folder / ASKING
        for file in (*imported.tokenizer_files, *([asking] if asking.is_file() else [])):
            shutil.copyfile(file, out / file.name)
        for path, layer, array in imported.slices:
            stream.write(path, layer, array)
            done += array.size
            del array  # so that its memory takes the next tensor
            advance("million parameters", done // MILLION, total // MILLION)
        meta = {
            "family": imported.family,
            "part": imported.part,
            "config": to_json(imported.config),
            "source": _hashes(imported),
            "licence": imported.licence,
        }
        return stream.finish(meta)


def read_config(folder: Path) -> Json:
    """The content of config.json; of Meta's folders params.json, and a `model_type`.

    Raises:
        RunError: there is none, or it is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file() and (folder / meta.PARAMS).is_file():
        return {**_read_json(folder / meta.PARAMS), "model_type": meta.FAMILY}
    if not file.is_file() and (folder / H_OPTIMUS_FILE).is_file():
        return {"architecture": hoptimus.ARCHITECTURE}  # published without a configuration
    if not file.is_file():
        found = sorted(each.name for each in folder.iterdir())[:10] if folder.is_dir() else []
        state = f"found {', '.join(found) or 'an empty folder'}" if folder.is_dir() else "no such folder"
        raise RunError(f"{file}: not there ({state}), expected a Hugging Face folder with config.json and weights.")
    return _read_json(file)


def _read_json(file: Path) -> Json:
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes")
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"a JSON {type(config).__name__}, expected an object")
    except ValueError as error:
        raise RunError(f"{file}: not a model configuration ({error}). Download it again.") from error
    return config


def _hashes(imported: Imported) -> dict[str, str]:
    """sha256 by name; of the weights they were computed while reading."""
    weights = {str(file.path.relative_to(imported.folder)): file.sha256() for file in imported.files}
    texts = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in imported.folder.glob("*.json")}
    return dict(sorted((weights | texts).items()))


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
