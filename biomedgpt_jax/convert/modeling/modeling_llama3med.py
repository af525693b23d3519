"""Llama3-Med in PyTorch: vision tower at several scales, connector, language model.

This file and vit_llama3med.py are complete: they need torch and transformers, and nothing of the package
that wrote them. Load the folder that they lie in with

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

or, without remote code,

    sys.modules["llama3med"] = package = types.ModuleType("llama3med")
    package.__path__ = [folder]
    from llama3med.modeling_llama3med import Llama3MedForConditionalGeneration
    Llama3MedForConditionalGeneration.from_pretrained(folder)

Axis letters: b images, n tokens of an image, m tokens given to the language model, d width, c channels,
s tokens of a text.
"""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from .vit_llama3med import ViT, vit_facts


class Llama3MedConfig(PretrainedConfig):
    """What config.json holds. `vision_config` is the tower's own, in its family's vocabulary."""

    model_type = "llama3med"

    def __init__(self, text_config=None, vision_config=None, **kwargs):
        self.text_config = text_config if not isinstance(text_config, dict) else _text_config(text_config)
        self.vision_config = vision_config or {}
        super().__init__(**kwargs)


class Llama3MedForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Image features take the positions whose id is `config.image_token_index`, in reading order."""

    config_class = Llama3MedConfig
    base_model_prefix = "language_model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = VisionTower(config)
        self.connector = Connector(config, self.vision_tower.widths, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels [b 3 h w] -> [b n d] in the width of the language model."""
        return self.connector(self.vision_tower(pixel_values.to(self.dtype)))

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        """Ids [b s] -> [b s d], image features in their places."""
        places = input_ids == self.config.image_token_index
        embeddings = self.get_input_embeddings()(input_ids.clamp(min=0))
        count = 0
        if pixel_values is not None:
            features = self.image_features(pixel_values)
            count = features.shape[0] * features.shape[1]
        if int(places.sum()) != count:
            raise ValueError(f"{int(places.sum())} image positions in the text, {count} image features.")
        if pixel_values is None:
            return embeddings
        return embeddings.masked_scatter(places.unsqueeze(-1), features.to(embeddings.dtype))

    def forward(self, input_ids=None, pixel_values=None, inputs_embeds=None, **kwargs):
        """As the language model's own; `pixel_values` are all images of the batch, in order."""
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, pixel_values)
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)

    @torch.no_grad()
    def generate(self, input_ids, pixel_values=None, attention_mask=None, **kwargs):
        """Returns the new tokens only."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        embeddings = self.embed(input_ids, pixel_values)
        return self.language_model.generate(inputs_embeds=embeddings, attention_mask=attention_mask, **kwargs)

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()


def _text_config(values: dict) -> PretrainedConfig:
    values = dict(values)
    return AutoConfig.for_model(values.pop("model_type"), **values)


# --- vision ---------------------------------------------------------------------------------------------


class VisionTower(nn.Module):
    """One ViT or a mixture of two, over one scale or several whose features are joined on channels (S2)."""

    def __init__(self, config):
        super().__init__()
        layer, norm = config.vision_feature_layer, config.vision_feature_norm
        first = vit_facts(config.vision_config)
        self.keep_prefix = config.vision_feature_select_strategy == "cls_patch"
        self.scales = [int(scale) for scale in config.s2_scales.split(",")]
        self.resize_to = config.s2_resize_output_to_idx
        self.widths = [first.width * len(self.scales)]
        if config.vision_config2 is None:
            self._vision_tower = ViT(first, layer, norm)
        else:
            second = vit_facts(config.vision_config2)
            self._vision_tower = nn.ModuleDict({"clip": ViT(first, layer, norm), "dinov2": ViT(second, layer, norm)})
            self.widths.append(second.width * len(self.scales))

    def forward(self, pixels: Tensor) -> Tensor:
        """[b 3 h w] -> [b n sum(widths)]; class and register tokens, where kept, come first."""
        tower = self._vision_tower
        vits = tower.values() if isinstance(tower, nn.ModuleDict) else [tower]
        return torch.cat([self._features(vit, pixels) for vit in vits], dim=2)

    def _features(self, vit: nn.Module, pixels: Tensor) -> Tensor:
        encoded = [self._scale(vit, pixels, scale) for scale in self.scales]
        size = encoded[self.resize_to][1].shape[-2:]
        maps = [F.interpolate(each.float(), size=size, mode="area").to(each.dtype) for _, each in encoded]
        patches = torch.cat(maps, dim=1).flatten(2).transpose(1, 2)
        if not self.keep_prefix:
            return patches
        return torch.cat([torch.cat([prefix for prefix, _ in encoded], dim=2), patches], dim=1)

    def _scale(self, vit: nn.Module, pixels: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """At one size: prefix tokens [b n d] (mean over tiles), features [b d h w] put together from tiles."""
        resized = F.interpolate(pixels.float(), size=(scale, scale), mode="bicubic", align_corners=False)
        count = math.ceil(scale / self.scales[0])
        rows = resized.to(pixels.dtype).chunk(count, dim=2)
        tiles = torch.cat([tile for row in rows for tile in row.chunk(count, dim=3)])
        prefix, patches = vit(tiles)
        prefix = torch.stack(prefix.chunk(count * count)).float().mean(0).to(prefix.dtype)
        side = math.isqrt(patches.shape[1])
        maps = patches.transpose(1, 2).unflatten(2, (side, side)).chunk(count * count)
        lines = [torch.cat(maps[row * count : (row + 1) * count], dim=3) for row in range(count)]
        return prefix, torch.cat(lines, dim=2)


# --- connector ------------------------------------------------------------------------------------------


class Connector(nn.Module):
    """Features [b n c] -> [b m d]; `connector_type` as in the published configurations."""

    def __init__(self, config, in_widths: list, out_width: int):
        super().__init__()
        kind = config.connector_type
        mlp = re.fullmatch(r"mlp([1-9]\d*)x_(gelu|relu)", kind)
        if mlp:
            self._connector = _mlp(int(mlp[1]), mlp[2], in_widths[0], out_width)
        elif kind == "linear":
            self._connector = nn.Linear(in_widths[0], out_width)
        elif kind == "identity":
            self._connector = nn.Identity()
        elif kind == "mof_mlp":
            self._connector = MofMlp(config, in_widths, out_width)
        elif kind == "resampler":
            self._connector = Resampler(config, in_widths[0], out_width)
        elif kind == "qformer":
            self._connector = QFormer(config, in_widths[0], out_width)
        else:
            raise ValueError(f"connector_type {kind!r} is unknown.")

    def forward(self, features: Tensor) -> Tensor:
        return self._connector(features)


def _mlp(layers: int, act: str, in_width: int, out_width: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Linear(in_width, out_width)]
    for _ in range(layers - 1):
        parts += [ACT2FN[act], nn.Linear(out_width, out_width)]
    return nn.Sequential(*parts)


class MofMlp(nn.Module):
    """Two MLPs; even tokens of the result are the first tower's, odd the second's."""

    def __init__(self, config, in_widths: list, out_width: int):
        super().__init__()
        self.widths = in_widths
        self.clip, self.dinov2 = (_mlp(config.mof_layers, config.mof_act, width, out_width) for width in in_widths)

    def forward(self, features: Tensor) -> Tensor:
        first, second = features.split(self.widths, dim=2)
        return torch.stack([self.clip(first), self.dinov2(second)], dim=2).flatten(1, 2)


class Resampler(nn.Module):
    """Learned latents read the features in a few layers (Perceiver)."""

    def __init__(self, config, in_width: int, width: int):
        super().__init__()
        eps, hidden = config.resampler_eps, width * config.resampler_mlp_ratio
        self.linear = nn.Linear(in_width, width)
        self.latents = nn.Parameter(torch.randn(config.num_queries, width))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    ResamplerAttention(width, config.resampler_heads, config.resampler_head_dim, eps),
                    nn.Sequential(
                        nn.LayerNorm(width, eps),
                        nn.Linear(width, hidden, bias=False),
                        nn.GELU(),
                        nn.Linear(hidden, width, bias=False),
                    ),
                ]
            )
            for _ in range(config.num_resampler_layers)
        )
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, features: Tensor) -> Tensor:
        media = self.linear(features)
        latents = self.latents.expand(len(media), -1, -1)
        for attention, mlp in self.layers:
            latents = latents + attention(media, latents)
            latents = latents + mlp(latents)
        return self.norm(latents)


class ResamplerAttention(nn.Module):
    """Latents attend to the features and to themselves."""

    def __init__(self, width: int, heads: int, head_dim: int, eps: float):
        super().__init__()
        self.heads = heads
        self.norm_media = nn.LayerNorm(width, eps)
        self.norm_latents = nn.LayerNorm(width, eps)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, media: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm_latents(latents)
        both = torch.cat([self.norm_media(media), latents], dim=1)
        k, v = self.to_kv(both).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_q(latents), k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class QFormer(nn.Module):
    """Learned queries in a BERT without text, whose every so many layers also read the features."""

    def __init__(self, config, in_width: int, out_width: int):
        super().__init__()
        width, self.eps = config.qformer_width, config.qformer_eps
        self.query_tokens = nn.Parameter(torch.randn(1, config.num_queries, width) * 0.02)
        self.bert = nn.Module()
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(
            QFormerLayer(config, in_width if index % config.qformer_cross_every == 0 else None)
            for index in range(config.qformer_layers)
        )
        self.projector = nn.Linear(width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        queries = F.layer_norm(self.query_tokens, self.query_tokens.shape[-1:], eps=self.eps)
        queries = queries.expand(len(features), -1, -1)
        for layer in self.bert.encoder.layer:
            queries = layer(queries, features)
        return self.projector(queries)


class QFormerLayer(nn.Module):
    """Norms come after each residual sum."""

    def __init__(self, config, key_width: int | None):
        super().__init__()
        width, hidden = config.qformer_width, config.qformer_hidden
        self.attention = QFormerAttention(config, width)
        self.crossattention = None if key_width is None else QFormerAttention(config, key_width)
        self.intermediate_query = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output_query = nn.ModuleDict(
            {"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, config.qformer_eps)}
        )
        self.act = ACT2FN[config.qformer_act]

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        queries = self.attention(queries, queries)
        if self.crossattention is not None:
            queries = self.crossattention(queries, features)
        mixed = self.output_query["dense"](self.act(self.intermediate_query["dense"](queries)))
        return self.output_query["LayerNorm"](queries + mixed)


class QFormerAttention(nn.Module):
    """Queries read `keys`; the result is added to them and normalised."""

    def __init__(self, config, key_width: int):
        super().__init__()
        width, self.heads = config.qformer_width, config.qformer_heads
        widths = {"query": width, "key": key_width, "value": key_width}
        self.self = nn.ModuleDict({name: nn.Linear(inward, width) for name, inward in widths.items()})
        self.output = nn.ModuleDict(
            {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, config.qformer_eps)}
        )

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        parts = self.self["query"](queries), self.self["key"](keys), self.self["value"](keys)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.output["LayerNorm"](queries + self.output["dense"](mixed))
