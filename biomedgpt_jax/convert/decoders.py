"""The decoder families that can be converted, by the `model_type` of their config.json."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert import gemma, llama, qwen2
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.llama import LlamaConfig

# Tensors of ...ForCausalLM to our paths below decoder/.
RULES = {"llama": llama.RULES, "qwen2": qwen2.RULES, "gemma": gemma.RULES}

# Regular expressions of tensors that a decoder's files may hold and that we knowingly do not take.
IGNORED = llama.IGNORED

_CONFIGS = {"llama": llama.config_from_hf, "qwen2": qwen2.config_from_hf, "gemma": gemma.config_from_hf}


def decoder_config_from_hf(config: Mapping[str, Any], where: str) -> LlamaConfig:
    """Reads a decoder's config.json; refuses any attribute that is neither handled nor knowingly ignored.

    Args:
        where: the file, for messages.

    Raises:
        RunError: naming the attribute, or an unknown family.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in _CONFIGS:
        raise RunError(f"{where}: model_type {family!r} is not a decoder we have, expected {', '.join(_CONFIGS)}.")
    return _CONFIGS[family](config, where)
