"""Folders of LoRA factors, merged into the model below them as its tensors are read.

PEFT writes the factors and their configuration. The model below is the folder named in the call, or the one that the
configuration names, or lies in files beside the factors, as the official Llama3-Med code (and TinyLLaVA) leaves it:
language_model/, vision_tower/ and connector/, each with a pytorch_model.bin.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biomedgpt_jax.convert import official
from biomedgpt_jax.convert.attributes import read_attributes
from biomedgpt_jax.convert.export_adapter import CONFIG, WEIGHTS
from biomedgpt_jax.convert.families import (
    Json,
    Opened,
    in_whole_model,
    open_llama3med,
    open_published,
    read_config,
    read_json,
    weights_of,
)
from biomedgpt_jax.convert.joined import Joined
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.torch_file import TorchFile
from biomedgpt_jax.core.errors import RunError, UsageError

TORCH_WEIGHTS = "adapter_model.bin"
# Of a whole model by the names of the official code: each part's folder, and where its tensors belong.
_PARTS = {
    "language_model": "language_model.",
    "vision_tower": "vision_tower._vision_tower.",
    "connector": "connector._connector.",
}
_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# They say how the factors were trained or found, not what they compute.
_HISTORY = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)


@dataclass(frozen=True)
class LoraFolder:
    family: str  # of the model below
    opened: Opened  # the merged model
    base: Path | None  # another folder, which has what the first lacks


def is_lora(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def open_lora(folder: Path, base: Path | None) -> LoraFolder:
    """Opens the merged model; in the dtypes of the model below, as PEFT merges.

    Args:
        base: folder of the model below, or of parts of it that `folder` lacks: of a whole model, or of the decoder.

    Raises:
        RunError: no model below, a variant of LoRA that we do not do, factors that do not fit. UsageError: `base`
            is of another part.
    """
    where = folder / CONFIG
    if base is not None and is_lora(base):
        raise UsageError(f"--base={base} holds adapters too; expected a model. Import it first, then export it whole.")
    config = read_json(where)
    rank, factor = _scaling(config, str(where))
    factors = _factors(folder)
    parts = {name: weights_of(folder / name) for name in _PARTS if (folder / name).is_dir()}
    if not parts:
        base = base or _named(folder, config)
        family, opened = open_published(base)
        merged = Merged(opened.tensors, factors, rank, factor, str(folder))
        return LoraFolder(family, Opened(opened.part, opened.config, merged, opened.rules, opened.ignored), base)
    sources = [(tensors, lambda key, prefix=_PARTS[name]: _full(prefix, key)) for name, tensors in parts.items()]
    lacking = [name for name in _PARTS if name not in parts]
    if lacking and base is None:
        raise RunError(
            f"{folder}: {', '.join(f'{name}/' for name in lacking)} is not there, which the adapters need; found "
            f"{', '.join(f'{name}/' for name in parts)}. Name a folder that has it (the whole model, or the decoder "
            "alone) with `biomedgpt import --base=FOLDER`."
        )
    below = [] if base is None else [_below(base)]
    tensors = Merged(Joined(*below, *sources), factors, rank, factor, str(folder))
    model = read_config(folder)
    if model.get("model_type") not in official.MODEL_TYPES:
        raise RunError(
            f"{folder / 'config.json'}: model_type {model.get('model_type')!r}, expected one of "
            f"{', '.join(official.MODEL_TYPES)} beside {', '.join(f'{name}/' for name in parts)}."
        )
    return LoraFolder(model["model_type"], open_llama3med(folder, model, tensors), base)


class Merged(Tensors):
    """A model's tensors, each with its adapter's product as it is read: one tensor and its factors in memory.

    Raises:
        RunError: factors without their other half, of no tensor below, or of shapes that do not fit.
    """

    def __init__(self, below: Tensors, factors: Tensors, rank: int, factor: float, where: str):
        self._below, self._factors, self._factor = below, factors, factor
        self.files = (*below.files, *factors.files)
        self._pairs = _pairs(below, factors, where)
        wrong = [each for name, pair in self._pairs.items() if (each := _misfit(below, factors, name, pair, rank))]
        if wrong:
            raise RunError(f"{where}: factors do not fit the model below or r = {rank}:\n  " + "\n  ".join(wrong[:4]))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._pairs:
            return self._below[name]
        a, b = (self._factors[key].astype(np.float32) for key in self._pairs[name])
        tensor = self._below[name]
        product = np.einsum("or,ri->oi", b, a, optimize=True)
        product *= np.float32(self._factor)
        product += tensor
        return product.astype(tensor.dtype, copy=False)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._below.shape(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._below)

    def __len__(self) -> int:
        return len(self._below)

    def __contains__(self, key: object) -> bool:
        return key in self._below


def _scaling(config: Json, where: str) -> tuple[int, float]:
    """Rank, and what the product of the factors is multiplied by."""
    # PEFT writes every option of its version; one that is off means nothing.
    stated = {key: value for key, value in config.items() if value not in (None, False, {}, [])}
    read = read_attributes(
        stated,
        where=where,
        defaults={"use_rslora": False},
        required=frozenset({"r", "lora_alpha", "peft_type"}),
        fixed={"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, "gaussian")},
        ignored=_HISTORY,
    )
    rank, alpha = read["r"], read["lora_alpha"]
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise RunError(f"{where}: r = {rank!r} and lora_alpha = {alpha!r}, expected a rank of 1 or more and a number.")
    return rank, alpha / (rank**0.5 if read["use_rslora"] else rank)


def _factors(folder: Path) -> Tensors:
    if (folder / WEIGHTS).is_file():
        return SafetensorsFolder(folder, single=WEIGHTS)
    if (folder / TORCH_WEIGHTS).is_file():
        return TorchFile(folder / TORCH_WEIGHTS)
    raise RunError(f"{folder}: expected {WEIGHTS} or {TORCH_WEIGHTS} beside {CONFIG}. Copy the folder again.")


def _named(folder: Path, config: Json) -> Path:
    """The folder that the configuration names, seen from the adapters."""
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name or not (folder / name).is_dir():
        raise RunError(
            f"{folder} holds adapters alone, and the model below them (base_model_name_or_path = {json.dumps(name)}) "
            "is not in it: name its folder with `biomedgpt import --base=FOLDER`."
        )
    return folder / name


def _below(base: Path) -> tuple[Tensors, type[str]]:
    """Tensors of the parts that a folder lacks, by the names of a whole model."""
    _, opened = open_published(base)
    if opened.part == "decoder":
        return Joined((opened.tensors, "language_model.{}".format)), str
    if opened.part == "model":
        return opened.tensors, str
    raise UsageError(f"--base={base} holds a {opened.part} alone; expected a whole model or a decoder.")


def _full(prefix: str, key: str) -> str:
    """The name in the whole model; files begin at any level of the prefix."""
    key = key.replace(".base_layer.", ".")
    levels = prefix.split(".")
    for at in range(len(levels) - 1):
        if key.startswith(".".join(levels[at:])):
            return ".".join([*levels[:at], key])
    return prefix + key


def _pairs(below: Tensors, factors: Tensors, where: str) -> dict[str, tuple[str, str]]:
    """Name of each adapted tensor to the keys of its factors, A and B."""
    found: dict[str, dict[str, str]] = {}
    odd = []
    for key in factors:
        match = _FACTOR.fullmatch(key)
        names = [f"{match['module']}.weight"] if match else []
        # LLaVA's modules have other names in memory than in its files.
        name = next((each for name in names for each in (name, in_whole_model(name)) if each in below), None)
        if match is None or name is None:
            odd.append(key)
        else:
            found.setdefault(name, {})[match["side"]] = key
    single = [key for pair in found.values() if len(pair) == 1 for key in pair.values()]
    if odd or single or not found:
        raise RunError(
            f"{where}: the adapters do not fit the model below.\n  not a factor of any of its tensors: "
            f"{', '.join(sorted(odd)[:8]) or 'none'}\n  without the other factor: "
            f"{', '.join(sorted(single)[:8]) or 'none'}\n"
            "Expected base_model.model.MODULE.lora_A.weight and lora_B.weight of its linear layers."
        )
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def _misfit(below: Tensors, factors: Tensors, name: str, pair: tuple[str, str], rank: int) -> str | None:
    out, *inputs = below.shape(name)
    expected = ((rank, *inputs), (out, rank))
    found = tuple(factors.shape(key) for key in pair)
    if len(inputs) == 1 and found == expected:
        return None
    return f"{pair[0]} and lora_B have shapes {found}, expected {expected} for {name} {below.shape(name)}"
