"""Tiny towers of transformers (and H-optimus in plain torch) with random weights, read through our rules."""

import json
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from biomedgpt_jax.convert.mapping import Rule, import_tensors
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.towers import TowerReader, rules_for, tower_reader
from biomedgpt_jax.core.module import Functional
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models.vit import Vit, VitConfig
from tests.models.references import randomised, saved

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 14}
CONFIGS = {
    "clip": lambda: transformers.CLIPVisionConfig(**SIZES, intermediate_size=48, image_size=56, layer_norm_eps=1e-2),
    # 60 is not a multiple of the patch, as 384 is not one of 14
    "siglip": lambda: transformers.SiglipVisionConfig(**SIZES, intermediate_size=48, image_size=60),
    "dinov2": lambda: transformers.Dinov2Config(**SIZES, mlp_ratio=2, image_size=70),
    "dinov2-giant": lambda: transformers.Dinov2Config(**SIZES, use_swiglu_ffn=True, qkv_bias=False, image_size=56),
    "dinov2-registers": lambda: transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3, image_size=70),
}
NAMES = (*CONFIGS, "h-optimus")
H_OPTIMUS = {"img_size": 56, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0, "init_values": 1e-5}


@dataclass(frozen=True)
class TowerReference:
    model: nn.Module
    config: VitConfig
    params: Params
    tensors: SafetensorsFolder
    reader: TowerReader
    rules: tuple[Rule, ...]

    def bind(self) -> Vit:
        return Functional(lambda rngs: Vit(self.config, rngs=rngs)).bind(self.params)

    def hidden_states(self, pixels: np.ndarray) -> list[torch.Tensor]:
        """Embeddings and the output of each block for normalised pixels [b h w 3]."""
        with torch.no_grad():
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            return list(self.model(images, output_hidden_states=True).hidden_states)

    def final_norm(self, x: torch.Tensor) -> torch.Tensor:
        norms = ("post_layernorm", "layernorm", "norm")
        with torch.no_grad():
            return next(getattr(self.model, name) for name in norms if hasattr(self.model, name))(x)


@cache
def tower_reference(name: str) -> TowerReference:
    """The same weights on both sides, after a journey over the disk."""
    model = HOptimus() if name == "h-optimus" else transformers.AutoModel.from_config(CONFIGS[name]())
    folder = saved(randomised(model))
    content = json.loads((folder / "config.json").read_text())
    reader = tower_reader(content, name)
    config = reader.config(content, name)
    tensors = SafetensorsFolder(folder)
    rules = rules_for(reader, config, tensors, name)
    leaves = import_tensors(tensors, rules, tower_shapes(config), where=name, ignored=reader.ignored)
    return TowerReference(
        model, config, jax.tree.map(jnp.asarray, from_leaf_paths(dict(leaves))), tensors, reader, rules
    )


def tower_shapes(config: VitConfig) -> dict[str, tuple[int, ...]]:
    init = Functional(lambda rngs: Vit(config, rngs=rngs)).init
    return {path: leaf.shape for path, leaf in leaf_paths(jax.eval_shape(init, jax.random.key(0))).items()}


def pixels(size: int | tuple[int, int], count: int = 2) -> np.ndarray:
    sides = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(0).normal(size=(count, *sides, 3)).astype(np.float32)


@dataclass
class Output:
    hidden_states: list[torch.Tensor]


class HOptimus(nn.Module):
    """H-optimus-0 from its description, with timm's names; an independent build."""

    def __init__(self):
        super().__init__()
        width, patches = H_OPTIMUS["embed_dim"], (H_OPTIMUS["img_size"] // 14) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, 4, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 14, stride=14)})
        self.blocks = nn.ModuleList(_Block(width) for _ in range(H_OPTIMUS["depth"]))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: torch.Tensor, output_hidden_states: bool) -> Output:
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2) + self.pos_embed
        prefix = torch.cat([self.cls_token, self.reg_token], 1).expand(len(images), -1, -1)
        states = [torch.cat([prefix, patches], 1)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return Output(states)

    def save_pretrained(self, folder) -> None:
        from safetensors.torch import save_file

        save_file(self.state_dict(), folder / "model.safetensors")
        content = {"architecture": "vit_giant_patch14_reg4_dinov2", "num_classes": 0, "model_args": H_OPTIMUS}
        (folder / "config.json").write_text(json.dumps(content))


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        hidden = int(width * H_OPTIMUS["mlp_ratio"])
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1, self.ls2 = (
            nn.ParameterDict({"gamma": torch.ones(width)}),
            nn.ParameterDict({"gamma": torch.ones(width)}),
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden // 2, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        q, k, v = (each.unflatten(-1, (H_OPTIMUS["num_heads"], -1)).transpose(1, 2) for each in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls1["gamma"] * self.attn["proj"](mixed)
        gate, up = self.mlp["fc1"](self.norm2(x)).chunk(2, -1)
        return x + self.ls2["gamma"] * self.mlp["fc2"](F.silu(gate) * up)
