"""The vision transformers of Llama3-Med in PyTorch: CLIP, SigLIP, DINOv2 and H-optimus-0, one class.

Axis letters: b images, h w pixels, n patches, m class and register tokens, d width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN


@dataclass(frozen=True)
class Family:
    """Where a family's checkpoint keeps each part ("" if it has none; `{}` is the layer), and its habits."""

    cls: str
    registers: str
    patch: str
    position: str
    pre_norm: str
    norm1: str
    qkv: tuple  # three modules, or one fused
    out: str
    scale1: str
    norm2: str
    up: str  # fused with the gate where there is one, gate first
    down: str
    scale2: str
    post_norm: str
    patch_bias: bool
    class_position: bool  # row 0 of the position table is the class token's
    interpolate: bool  # the position table to other sizes
    antialias: bool  # when doing so
    flat: bool  # class token and positions are stored as [d] and [n d], else with leading ones


_EMBEDDINGS, _LAYER = "vision_model.embeddings.", "vision_model.encoder.layers.{}."
CLIP = Family(
    cls=_EMBEDDINGS + "class_embedding",
    registers="",
    patch=_EMBEDDINGS + "patch_embedding",
    position=_EMBEDDINGS + "position_embedding.weight",
    pre_norm="vision_model.pre_layrnorm",
    norm1=_LAYER + "layer_norm1",
    qkv=tuple(_LAYER + f"self_attn.{part}_proj" for part in "qkv"),
    out=_LAYER + "self_attn.out_proj",
    scale1="",
    norm2=_LAYER + "layer_norm2",
    up=_LAYER + "mlp.fc1",
    down=_LAYER + "mlp.fc2",
    scale2="",
    post_norm="vision_model.post_layernorm",
    patch_bias=False,
    class_position=True,
    interpolate=False,
    antialias=False,
    flat=True,
)
SIGLIP = replace(CLIP, cls="", pre_norm="", patch_bias=True, class_position=False)
DINOV2 = Family(
    cls="embeddings.cls_token",
    registers="embeddings.register_tokens",
    patch="embeddings.patch_embeddings.projection",
    position="embeddings.position_embeddings",
    pre_norm="",
    norm1="encoder.layer.{}.norm1",
    qkv=tuple("encoder.layer.{}.attention.attention." + part for part in ("query", "key", "value")),
    out="encoder.layer.{}.attention.output.dense",
    scale1="encoder.layer.{}.layer_scale1.lambda1",
    norm2="encoder.layer.{}.norm2",
    up="encoder.layer.{}.mlp.fc1",
    down="encoder.layer.{}.mlp.fc2",
    scale2="encoder.layer.{}.layer_scale2.lambda1",
    post_norm="layernorm",
    patch_bias=True,
    class_position=True,
    interpolate=True,
    antialias=False,
    flat=False,
)
H_OPTIMUS = Family(
    cls="cls_token",
    registers="reg_token",
    patch="patch_embed.proj",
    position="pos_embed",
    pre_norm="",
    norm1="blocks.{}.norm1",
    qkv=("blocks.{}.attn.qkv",),
    out="blocks.{}.attn.proj",
    scale1="blocks.{}.ls1.gamma",
    norm2="blocks.{}.norm2",
    up="blocks.{}.mlp.fc1",
    down="blocks.{}.mlp.fc2",
    scale2="blocks.{}.ls2.gamma",
    post_norm="norm",
    patch_bias=True,
    class_position=False,
    interpolate=False,
    antialias=False,
    flat=False,
)


@dataclass(frozen=True)
class Facts:
    """One ViT."""

    family: Family
    width: int
    hidden: int  # of the MLP; of each half where it is gated
    layers: int
    heads: int
    patch: int
    grid: int  # patches along a side that the position table was made for
    eps: float
    act: str
    gated: bool
    registers: int
    qkv_bias: bool


def vit_facts(values: dict) -> Facts:
    """Reads a tower's configuration, written in the vocabulary of Hugging Face."""
    family = values["model_type"]
    if family not in _READERS:
        raise ValueError(f"vision_config is of {family!r}, expected one of {sorted(_READERS)}.")
    return _READERS[family](values)


def _clip(values: dict) -> Facts:
    family = CLIP if values["model_type"] == "clip_vision_model" else SIGLIP
    return _hugging_face(values, family, values["intermediate_size"], values["hidden_act"], gated=False)


def _dinov2(values: dict) -> Facts:
    hidden = int(values["hidden_size"] * values["mlp_ratio"])
    family = replace(DINOV2, antialias=values["model_type"] == "dinov2_with_registers")
    if not values["use_swiglu_ffn"]:
        return _hugging_face(values, family, hidden, values["hidden_act"], gated=False)
    family = replace(family, up="encoder.layer.{}.mlp.weights_in", down="encoder.layer.{}.mlp.weights_out")
    return _hugging_face(values, family, (int(hidden * 2 / 3) + 7) // 8 * 8, "silu", gated=True)


def _hugging_face(values: dict, family: Family, hidden: int, act: str, gated: bool) -> Facts:
    return Facts(
        family=family,
        width=values["hidden_size"],
        hidden=hidden,
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        patch=values["patch_size"],
        grid=values["image_size"] // values["patch_size"],
        eps=values["layer_norm_eps"],
        act=act,
        gated=gated,
        registers=values.get("num_register_tokens", 0),
        qkv_bias=values.get("qkv_bias", True),
    )


def _h_optimus(values: dict) -> Facts:
    return _hugging_face(values, H_OPTIMUS, values["intermediate_size"], values["hidden_act"], gated=True)


_READERS = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _clip,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2,
    "hoptimus": _h_optimus,
}


class ViT(nn.Module):
    """One vision transformer whose parts lie where its family's checkpoints keep them.

    `feature_layer` counts like `hidden_states` of Hugging Face; blocks behind it are kept and not run.
    """

    def __init__(self, facts: Facts, feature_layer: int, feature_norm: bool):
        super().__init__()
        self.facts, family, width = facts, facts.family, facts.width
        self.run = feature_layer if feature_layer >= 0 else facts.layers + 1 + feature_layer
        self.feature_norm = feature_norm
        lead = () if family.flat else (1,)
        rows = facts.grid**2 + family.class_position
        self._put(family.patch, nn.Conv2d(3, width, facts.patch, facts.patch, bias=family.patch_bias))
        self._put(family.position, nn.Parameter(torch.zeros(*lead, rows, width)))
        if family.cls:
            self._put(family.cls, nn.Parameter(torch.zeros(*lead, *lead, width)))
        if facts.registers:
            self._put(family.registers, nn.Parameter(torch.zeros(*lead, facts.registers, width)))
        if family.pre_norm:
            self._put(family.pre_norm, nn.LayerNorm(width, facts.eps))
        for layer in range(facts.layers):
            self._put_block(layer)
        self._put(family.post_norm, nn.LayerNorm(width, facts.eps))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[b 3 h w] -> class and register tokens [b m d], patches [b n d]."""
        family = self.facts.family
        x = self._embed(pixels)
        if family.pre_norm:
            x = self._get(family.pre_norm)(x)
        for layer in range(self.run):
            x = x + self._scaled(family.scale1, layer, self._attend(layer, self._at(family.norm1, layer)(x)))
            x = x + self._scaled(family.scale2, layer, self._mlp(layer, self._at(family.norm2, layer)(x)))
        if self.feature_norm:
            x = self._get(family.post_norm)(x)
        prefix = bool(family.cls) + self.facts.registers
        return x[:, :prefix], x[:, prefix:]

    def _embed(self, pixels: Tensor) -> Tensor:
        family, facts = self.facts.family, self.facts
        patches = self._get(family.patch)(pixels)
        table = self._get(family.position).reshape(-1, facts.width)
        of_class, table = table[: int(family.class_position)], table[int(family.class_position) :]
        x = patches.flatten(2).transpose(1, 2) + self._positions(table, *patches.shape[-2:])
        tokens = []
        if family.cls:
            tokens.append(self._get(family.cls).reshape(1, -1) + of_class.sum(0, keepdim=True))
        if facts.registers:
            tokens.append(self._get(family.registers).reshape(-1, facts.width))
        return torch.cat([*(token.expand(len(x), -1, -1) for token in tokens), x], dim=1)

    def _positions(self, table: Tensor, rows: int, columns: int) -> Tensor:
        facts = self.facts
        if (rows, columns) == (facts.grid, facts.grid):
            return table
        if not facts.family.interpolate:
            raise ValueError(f"{rows} x {columns} patches, the tower takes {facts.grid} x {facts.grid}.")
        grid = table.T.reshape(1, facts.width, facts.grid, facts.grid).float()
        grid = F.interpolate(
            grid, (rows, columns), mode="bicubic", align_corners=False, antialias=facts.family.antialias
        )
        return grid.flatten(2)[0].T.to(table.dtype)

    def _attend(self, layer: int, x: Tensor) -> Tensor:
        family, heads = self.facts.family, self.facts.heads
        parts = torch.cat([self._at(name, layer)(x) for name in family.qkv], dim=-1).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self._at(family.out, layer)(mixed.transpose(1, 2).flatten(2))

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        family, act = self.facts.family, ACT2FN[self.facts.act]
        x = self._at(family.up, layer)(x)
        if self.facts.gated:
            gate, up = x.chunk(2, dim=-1)
            return self._at(family.down, layer)(act(gate) * up)
        return self._at(family.down, layer)(act(x))

    def _scaled(self, name: str, layer: int, branch: Tensor) -> Tensor:
        return branch * self._at(name, layer) if name else branch

    def _put_block(self, layer: int) -> None:
        facts, family, width = self.facts, self.facts.family, self.facts.width
        parts = {
            **{name: nn.Linear(width, 3 * width // len(family.qkv), bias=facts.qkv_bias) for name in family.qkv},
            family.norm1: nn.LayerNorm(width, facts.eps),
            family.out: nn.Linear(width, width),
            family.norm2: nn.LayerNorm(width, facts.eps),
            family.up: nn.Linear(width, facts.hidden * (1 + facts.gated)),
            family.down: nn.Linear(facts.hidden, width),
        }
        if family.scale1:
            parts[family.scale1] = nn.Parameter(torch.ones(width))
            parts[family.scale2] = nn.Parameter(torch.ones(width))
        for name, part in parts.items():
            self._put(name.format(layer), part)

    def _put(self, path: str, part) -> None:
        """Makes `part` reachable, and saved, under a dotted path."""
        *parents, name = path.split(".")
        node = self
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, nn.Module())
            node = getattr(node, parent)
        setattr(node, name, part)

    def _get(self, path: str):
        node = self
        for name in path.split("."):
            node = getattr(node, name)
        return node

    def _at(self, path: str, layer: int):
        return self._get(path.format(layer))
