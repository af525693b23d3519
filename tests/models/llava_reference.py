"""A tiny LLaVA of transformers with random weights, read back as a Llama3-Med."""

import json
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from biomedgpt_jax.convert.llava import llava_from_hf
from biomedgpt_jax.convert.mapping import Rule, import_tensors
from biomedgpt_jax.convert.shapes import model_shapes
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.core.partition import from_leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.vision import normalise
from tests.models.image_rows import IMAGE_TOKEN, SIZE
from tests.models.references import CONFIGS, randomised, saved


@dataclass(frozen=True, eq=False)
class LlavaReference:
    model: torch.nn.Module
    config: Llama3MedConfig
    params: Params
    tensors: SafetensorsFolder
    rules: tuple[Rule, ...]

    def logits(self, tokens: np.ndarray, images: np.ndarray) -> torch.Tensor:
        """Theirs; `images` uint8 [n h w 3] in the order of their placeholders over all rows."""
        tower = self.config.vision.tower
        pixels = np.asarray(normalise(jnp.asarray(images), tower.mean, tower.std)).transpose(0, 3, 1, 2)
        with torch.no_grad():
            return self.model(input_ids=torch.tensor(tokens), pixel_values=torch.tensor(pixels)).logits


@cache
def llava_reference() -> LlavaReference:
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=14,
        layer_norm_eps=1e-3,
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=CONFIGS["llama3"](), image_token_index=IMAGE_TOKEN
    )
    model = randomised(transformers.LlavaForConditionalGeneration(config))
    folder = saved(model)
    tensors = SafetensorsFolder(folder)
    ours, rules, ignored = llava_from_hf(json.loads((folder / "config.json").read_text()), tensors, "llava")
    leaves = import_tensors(tensors, rules, model_shapes(ours), where="llava", ignored=ignored)
    return LlavaReference(model, ours, jax.tree.map(jnp.asarray, from_leaf_paths(dict(leaves))), tensors, rules)
