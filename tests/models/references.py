"""Tiny models of transformers with random weights, saved and read back through our rules."""

import json
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from biomedgpt_jax.convert.decoders import IGNORED, RULES, decoder_config_from_hf
from biomedgpt_jax.convert.mapping import import_tensors
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models.llama import Llama, LlamaConfig

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 3e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
CONFIGS = {
    "plain": lambda: transformers.LlamaConfig(
        **SIZES, num_key_value_heads=4, rms_norm_eps=3e-2, rope_parameters={"rope_type": "default", "rope_theta": 7e3}
    ),
    "llama3": lambda: transformers.LlamaConfig(
        **SIZES, num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE
    ),
    "tied": lambda: transformers.LlamaConfig(
        **SIZES, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=2),
    "gemma": lambda: transformers.GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=16),
}


@dataclass(frozen=True, eq=False)
class Reference:
    model: torch.nn.Module
    config: LlamaConfig
    params: Params
    tensors: SafetensorsFolder

    def bind(self, params: Params | None = None) -> Llama:
        functional = Functional(lambda rngs: Llama(self.config, lora=None, rngs=rngs))
        return functional.bind(self.params if params is None else params)

    def logits(self, tokens, segment_ids=None, positions=None, **how) -> jax.Array:
        """Ours; one sample per row unless segments are given."""
        tokens = jnp.asarray(tokens)
        segment_ids = jnp.ones_like(tokens) if segment_ids is None else jnp.asarray(segment_ids)
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        positions = places if positions is None else jnp.asarray(positions)
        return _logits(self, how.pop("params", self.params), tokens, segment_ids, positions, **how)


@partial(jax.jit, static_argnums=0, static_argnames=("dtype", "remat"))
def _logits(reference, params, tokens, segment_ids, positions, dtype=jnp.float32, remat=Remat.NONE):
    model = reference.bind(params)
    hidden = model(model.embed_tokens(tokens, dtype), segment_ids, positions, remat=remat)
    assert hidden.dtype == dtype
    return model.unembed(hidden)


@cache
def decoder_reference(name: str) -> Reference:
    """A model of transformers and the same weights as our parameters, after a journey over the disk."""
    model = randomised(transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()))
    folder = saved(model)
    content = json.loads((folder / "config.json").read_text())
    config = decoder_config_from_hf(content, name)
    tensors = SafetensorsFolder(folder)
    shapes = {path: leaf.shape for path, leaf in leaf_paths(abstract_decoder(config)).items()}
    rules = RULES[content["model_type"]]
    params = from_leaf_paths(dict(import_tensors(tensors, rules, shapes, where=name, ignored=IGNORED)))
    return Reference(model, config, jax.tree.map(jnp.asarray, params), tensors)


def abstract_decoder(config: LlamaConfig) -> Params:
    return jax.eval_shape(Functional(lambda rngs: Llama(config, lora=None, rngs=rngs)).init, jax.random.key(0))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight random, norms and biases too, at a size at which attention is far from uniform."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            offset = 1 if "norm" in name and name.endswith("weight") and "Gemma" not in type(model).__name__ else 0
            weight.copy_(offset + 0.25 * noise)
    return model.eval()


def saved(model: torch.nn.Module) -> Path:
    folder = Path(tempfile.mkdtemp())
    model.save_pretrained(folder)
    return folder


def close(ours: jax.Array, theirs: torch.Tensor | np.ndarray, tolerance: float = 1e-5) -> None:
    """Largest difference, relative to the largest value."""
    theirs = np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs)
    assert ours.shape == theirs.shape
    worst = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert worst < tolerance, f"relative difference {worst:.2e}"
