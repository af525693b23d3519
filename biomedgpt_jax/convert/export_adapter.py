"""LoRA as a PEFT adapter: its names, its configuration, its file.

The adapter holds nothing but the low-rank factors. Whatever else was trained (the connector, a tuned tower) is in
the base model that is written beside it, because factors on another base would not compute the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from biomedgpt_jax.convert import decoders
from biomedgpt_jax.convert.decoder_json import decoder_family
from biomedgpt_jax.convert.leaves import Leaves, cast
from biomedgpt_jax.convert.mapping import Rule, Shape, export_tensors, import_tensors
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.lora import Lora
from biomedgpt_jax.models.llama3_med import Llama3MedConfig

Json = dict[str, Any]

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base"
# Where the decoder's `model.` lies in the two whole-model architectures, as transformers 5 names modules in memory.
DECODERS = {
    "LlavaForConditionalGeneration": "model.language_model.",
    "Llama3MedForConditionalGeneration": "language_model.model.",
}


def adapter_rules(config: Llama3MedConfig, architecture: str, shapes: Mapping[str, Shape]) -> tuple[Rule, ...]:
    """PEFT's names to our paths of the factors in `shapes`."""
    rules = []
    for rule in decoders.RULES[decoder_family(config.decoder).value]:
        path = f"decoder/{rule.ours}"
        if f"{path}_lora_a" in shapes:
            module = f"base_model.model.{DECODERS[architecture]}{_module(rule)}"
            rules += [
                Rule(f"{module}.lora_A.weight", f"{path}_lora_a", "i r -> r i"),
                Rule(f"{module}.lora_B.weight", f"{path}_lora_b", "r o -> o r"),
            ]
    return tuple(rules)


def adapter_config(config: Llama3MedConfig, architecture: str, lora: Lora, shapes: Mapping[str, Shape]) -> Json:
    """The content of adapter_config.json; `alpha / rank` is PEFT's scaling too.

    `target_modules` is a regular expression over whole module names: CLIP's projections have the decoder's names.
    """
    adapted = [
        _module(rule).rsplit(".", 1)[1]
        for rule in decoders.RULES[decoder_family(config.decoder).value]
        if f"decoder/{rule.ours}_lora_a" in shapes
    ]
    where = DECODERS[architecture].replace(".", r"\.")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": rf"{where}layers\.\d+\.\w+\.({'|'.join(adapted)})",
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "inference_mode": True,
    }


def write_adapter(folder: Path, adapters: Leaves, rules: tuple[Rule, ...]) -> None:
    """The factors in float32, as they were trained; PEFT reads one file."""
    tensors = dict(export_tensors(cast(adapters, "float32"), rules, where=str(folder), shapes=adapters.shapes))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path, rules: tuple[Rule, ...], shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """The factors by our paths.

    Raises:
        RunError: tensors that are missing, left over or of another shape.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise RunError(f"{file} is not there; expected the factors of an adapter. Export it again.")
    return dict(import_tensors(load_file(file), rules, shapes, where=str(file)))


def _module(rule: Rule) -> str:
    """The module of a weight, as `layers.{layer}.mlp.up_proj` of `model.layers.{layer}.mlp.up_proj.weight`."""
    return rule.theirs.removeprefix("model.").removesuffix(".weight")
