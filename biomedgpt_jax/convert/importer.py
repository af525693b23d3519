"""Published weights -> our parameters: recognise the family, read its configuration, move each tensor.

Every attribute of config.json and every tensor is handled, knowingly ignored, or an error that names it.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.checkpoint.stream import WeightsStream
from biomedgpt_jax.convert.export_adapter import CONFIG
from biomedgpt_jax.convert.fairseq_file import checkpoint_of, is_torch_file
from biomedgpt_jax.convert.families import Opened, open_published
from biomedgpt_jax.convert.lora_folder import is_lora, open_lora
from biomedgpt_jax.convert.mapping import Shape, Slice, import_slices, whole_leaves
from biomedgpt_jax.convert.open_biomedgpt import (
    FAMILY,
    HF_FAMILY,
    RESEARCH_ONLY,
    CheckpointChoices,
    open_checkpoint,
)
from biomedgpt_jax.convert.open_biomedgpt import TOKENIZER_FILES as BIOMEDGPT_FILES
from biomedgpt_jax.convert.processing import ASKING, COMPANIONS, write_json
from biomedgpt_jax.convert.shapes import ModelConfig, leaf_shapes
from biomedgpt_jax.convert.source import SourceFile
from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import UsageError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
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
    descriptions: tuple[Path, ...]  # the small files that say what the weights are
    folders: tuple[Path, ...]  # the one that was named, then that of the model below its adapters
    texts: Path  # the one of them that says how the model is asked
    licence: str | None
    tokenizer_files: tuple[Path, ...]
    asking: Mapping[str, Any] | None  # how the model is asked, where the weights themselves store some of it

    @property
    def leaves(self) -> Iterator[tuple[str, np.ndarray]]:
        """(path, array), each leaf when its last layer has come."""
        return whole_leaves(self.slices, self.shapes)


def import_folder(
    path: str | Path,
    base: str | Path | None = None,
    *,
    choices: CheckpointChoices | None = None,
    tokenizer: str | Path | None = None,
) -> Imported:
    """Opens a folder of published weights, or a fairseq checkpoint. Nothing large is read, but everything is checked.

    Args:
        base: of a folder of LoRA factors, which are merged: the folder of the model below them, if not in the first.
        choices: of a fairseq checkpoint.
        tokenizer: folder with the tokenizer, if not beside the weights.

    Raises:
        RunError: no such folder, an unknown family, an attribute or a tensor that does not fit. UsageError: `base`
            where there are no LoRA factors, `choices` where there is no checkpoint.
    """
    source = checkpoint_of(Path(path))
    if base is not None and not is_lora(source):
        raise UsageError(f"--base is for folders of LoRA adapters; {source} has no {CONFIG}. Leave it out.")
    if choices is not None and not is_torch_file(source):
        raise UsageError(f"--ema and --harmless are for fairseq checkpoints; {source} is none. Leave them out.")
    family, opened, folders = _opened(source, base, choices or CheckpointChoices())
    shapes = leaf_shapes(opened.config)
    slices = import_slices(opened.tensors, opened.rules, shapes, where=str(source), ignored=opened.ignored)
    texts, tokenizer_files = _tokenizer(folders, family)
    if tokenizer is not None:
        _, tokenizer_files = _tokenizer((Path(tokenizer),), family)
        if not tokenizer_files:
            raise UsageError(f"--tokenizer={tokenizer}: has none of {', '.join(_names_of(family))}.")
    found = tuple(file for folder in folders for file in folder.glob("*.json"))
    return Imported(
        family=family,
        part=opened.part,
        config=opened.config,
        shapes=shapes,
        slices=slices,
        files=opened.tensors.files,
        descriptions=found if source.is_dir() else tokenizer_files,
        folders=folders,
        texts=texts,
        licence=_stated_licence(source, folders, family),
        tokenizer_files=tokenizer_files,
        asking=opened.asking,
    )


def _opened(source: Path, base: str | Path | None, choices: CheckpointChoices) -> tuple[str, Opened, tuple[Path, ...]]:
    """Family, content, and the folders that it comes from."""
    if is_torch_file(source):
        checkpoint = open_checkpoint(source, choices)
        opened = Opened("model", **{field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)})
        return FAMILY, opened, (source.parent,)
    if is_lora(source):
        lora = open_lora(source, None if base is None else Path(base))
        return lora.family, lora.opened, (source, *([lora.base] if lora.base else []))
    family, opened = open_published(source)
    return family, opened, (source,)


@dataclass(frozen=True)
class Saved:
    hash: str
    dtypes: Mapping[str, int]  # of the source, to how many tensors had it


def save_imported(
    imported: Imported, out: str | Path, advance: Callable[[str, int, int | None], None], dtype: str | None = None
) -> Saved:
    """Streams a folder of weights with its configuration, provenance and tokenizer.

    In memory are the tensor being read, and a few slices on their way to the disk.

    Args:
        advance: is told (what, done, total) after each slice.
        dtype: "float32" or "bfloat16" for all leaves; None keeps what the source has, but float64 becomes float32.

    Raises:
        RunError: as `import_folder` and `WeightsStream`.
    """
    out = Path(out)
    for file in imported.files:
        file.begin_hash()
    done, total = 0, sum(int(np.prod(shape)) for shape in imported.shapes.values())
    dtypes: Counter[str] = Counter()
    with WeightsStream(out, imported.shapes, dtype) as stream:
        companions = [imported.texts / name for name in COMPANIONS]
        for file in (*imported.tokenizer_files, *(each for each in companions if each.is_file())):
            shutil.copyfile(file, out / file.name)
        if imported.asking is not None:
            write_json(out / ASKING, dict(imported.asking))
        for path, layer, array in imported.slices:
            stream.write(path, layer, array)
            done += array.size
            dtypes[str(array.dtype)] += 1
            del array  # so that its memory takes the next tensor
            advance("million parameters", done // MILLION, total // MILLION)
        meta = {
            "family": imported.family,
            "part": imported.part,
            "config": to_json(imported.config),
            "source": _hashes(imported),
            "source_dtypes": dict(dtypes),
            "licence": imported.licence,
        }
        return Saved(stream.finish(meta), dtypes)


def _hashes(imported: Imported) -> dict[str, str]:
    """sha256 by name; of the weights they were computed while reading."""
    digests = {_name(file.path, imported.folders): file.sha256() for file in imported.files}
    for file in imported.descriptions:
        digests[_name(file, imported.folders)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return dict(sorted(digests.items()))


def _name(file: Path, folders: tuple[Path, ...]) -> str:
    """Inside the folder that was named, else inside the one below: "base: model.safetensors"; else its name alone."""
    for folder, mark in zip(folders, ("", "base: "), strict=False):
        if file.is_relative_to(folder):
            return f"{mark}{file.relative_to(folder)}"
    return file.name


def _tokenizer(folders: tuple[Path, ...], family: str) -> tuple[Path, tuple[Path, ...]]:
    """The first folder with a tokenizer, and its files."""
    for folder in folders:
        if files := tuple(file for name in _names_of(family) if (file := folder / name).is_file()):
            return folder, files
    return folders[0], ()


def _names_of(family: str) -> tuple[str, ...]:
    return BIOMEDGPT_FILES if family in (FAMILY, HF_FAMILY) else TOKENIZER_FILES


def _stated_licence(source: Path, folders: tuple[Path, ...], family: str) -> str | None:
    """Of a folder what its card says; of BiomedGPT's published weights what their authors say besides."""
    found = [each for folder in folders if source.is_dir() and (each := _licence(folder))]
    if family in (FAMILY, HF_FAMILY) and found in ([], ["apache-2.0"], ["other"]):  # "other": our own export's
        return RESEARCH_ONLY
    return " and ".join(dict.fromkeys(found)) or None


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
