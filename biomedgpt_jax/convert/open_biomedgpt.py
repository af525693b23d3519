"""BiomedGPT's weights as they are published: fairseq's checkpoint file, or OFA's Hugging Face folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomedgpt_jax.convert.biomedgpt import EMBEDDING, FAIRSEQ_RULES, HF_RULES
from biomedgpt_jax.convert.biomedgpt_buffers import COPIES, IGNORED, Padded, check_buffers, check_copies
from biomedgpt_jax.convert.biomedgpt_settings import config_from_fairseq, config_from_hf
from biomedgpt_jax.convert.fairseq_file import open_fairseq
from biomedgpt_jax.convert.joined import Joined
from biomedgpt_jax.convert.mapping import Rule
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig

FAMILY = "biomedgpt"
HF_FAMILY = "ofa"  # `model_type` of its config.json
# BART's files, of the Hugging Face folder; GPT-2's and fairseq's dictionary, of the official code.
TOKENIZER_FILES = ("vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "dict.txt", "tokenizer_config.json")
# What the authors' README says, whatever the tags say.
RESEARCH_ONLY = (
    "apache-2.0 by its tag, but its authors' README limits code and checkpoints to academic research and forbids "
    "commercial and clinical use"
)


@dataclass(frozen=True)
class CheckpointChoices:
    """What a fairseq checkpoint leaves open."""

    averaged: bool = False  # the moving average of the weights, which is what published VQA scores are of
    harmless: tuple[str, ...] = ()  # settings that the caller knows to change nothing


@dataclass(frozen=True)
class BiomedGptSource:
    config: BiomedGptConfig
    tensors: Tensors
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = IGNORED
    asking: Mapping[str, Any] | None = None  # how pictures were put to it, where that is stored


def open_checkpoint(path: Path, choices: CheckpointChoices) -> BiomedGptSource:
    """A fairseq checkpoint.

    Raises:
        RunError: as `open_fairseq` and `config_from_fairseq`; a table that is another than ours.
        UsageError: an average is asked for that is not there.
    """
    checkpoint = open_fairseq(path, averaged=choices.averaged)
    config = config_from_fairseq(checkpoint.settings, checkpoint.tensors, str(path), harmless=choices.harmless)
    source = _source(config, checkpoint.tensors, FAIRSEQ_RULES, str(path))
    return replace(source, asking=_asking(checkpoint.settings))


def open_hf_folder(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> BiomedGptSource:
    """A folder of OFA's form, from the content of its config.json and its tensors.

    Of the embedding's three names safetensors may have kept any one.

    Raises:
        RunError: as `config_from_hf`; a table that is another than ours.
    """
    kept = next((name for name in (EMBEDDING, *COPIES) if name in tensors), EMBEDDING)
    if kept != EMBEDDING:
        tensors = Joined((tensors, lambda key: EMBEDDING if key == kept else key))
    return _source(config_from_hf(config, str(folder / "config.json")), tensors, HF_RULES, str(folder))


def _asking(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Size and normalisation of the pictures of the training, in the words of our own exports."""
    size, normalised = settings.get("patch_image_size"), settings.get("imagenet_default_mean_and_std")
    if not isinstance(size, int):
        return None
    return {"image_size": size, "pixels": "imagenet" if normalised in (True, "True", "true") else "half"}


def _source(config: BiomedGptConfig, tensors: Tensors, rules: tuple[Rule, ...], where: str) -> BiomedGptSource:
    heads = sorted(key for key in tensors if key.startswith("classification_heads."))
    if heads:
        raise RunError(f"{where}: has heads for classification ({heads[0]}), which BiomedGPT does not use.")
    check_copies(tensors, where)
    check_buffers(tensors, config, where)
    return BiomedGptSource(config, Padded(tensors, config), rules)
