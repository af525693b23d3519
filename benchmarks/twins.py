"""Tiny and small Llama3-Meds, and the same weights as a stock LLaVA of transformers."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from biomedgpt_jax.convert.export_llava import llava_config, llava_name_rules
from biomedgpt_jax.convert.mapping import export_tensors
from biomedgpt_jax.convert.processing import ExportText
from biomedgpt_jax.convert.tensors import write_safetensors
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.connector import connector_from_name
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import TOWERS
from biomedgpt_jax.models.vision import VisionConfig, feature_widths
from biomedgpt_jax.models.vit import Features

TOWER = TOWERS["tiny-clip"]  # 4 blocks of 128; 49 patches of an image of 56 pixels
TINY_DECODER = LlamaConfig(
    width=256,
    depth=4,
    heads=8,
    kv_heads=4,
    head_dim=32,
    mlp_width=1024,
    activation=Activation.SILU,
    vocab_size=2048,
    rope_theta=1e4,
    rope_scaling=None,
    eps=1e-5,
    norm_offset=0.0,
    qkv_bias=False,
    embed_scale=1.0,
    tied=True,
    init_std=0.02,
)
SMALL_DECODER = PRESETS["smollm2-135m"]


def small_llava(decoder: LlamaConfig) -> Llama3MedConfig:
    """The tiny tower before a decoder; features of the last block, because transformers runs all blocks always."""
    features = Features(layer=-1, final_norm=False, keep_prefix=False)
    vision = VisionConfig(TOWER, None, S2Config((TOWER.image_size,), MapSize.SMALLEST), features)
    return Llama3MedConfig(vision, connector_from_name("mlp2x_gelu", feature_widths(vision), decoder.width), decoder)


def in_transformers(config: Llama3MedConfig, params: Params) -> transformers.LlavaForConditionalGeneration:
    """The same model with the same weights, float32; the last word of the vocabulary stands for images."""
    text = ExportText(Path(), template="", bos_id=0, stop_ids=(), pad_id=0, image_id=image_token(config), context=4096)
    leaves = {path: np.asarray(leaf) for path, leaf in leaf_paths(params).items()}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "config.json").write_text(json.dumps(llava_config(config, text, "float32")))
        write_safetensors(Path(name), export_tensors(leaves, llava_name_rules(config), where="weights"))
        return transformers.LlavaForConditionalGeneration.from_pretrained(name, dtype=torch.float32)


def image_token(config: Llama3MedConfig) -> int:
    return config.decoder.vocab_size - 1


def batch_of(config: Llama3MedConfig, rows: int, length: int, *, seed: int) -> dict[str, np.ndarray]:
    """Full rows: one image, then text; the second half of the text is supervised."""
    rng = np.random.default_rng(seed)
    patches, size = config.tokens_per_image, config.image_size
    tokens = rng.integers(1, image_token(config), (rows, length), dtype=np.int32)
    tokens[:, :patches] = image_token(config)
    index = np.full((rows, length), -1, np.int32)
    index[:, :patches] = np.arange(patches)
    supervised = np.zeros((rows, length), np.float32)
    supervised[:, (length + patches) // 2 : -1] = 1
    return {
        "tokens": tokens,
        "targets": np.where(supervised > 0, np.roll(tokens, -1, axis=1), 0),
        "loss_weights": supervised,
        "segment_ids": np.ones((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "image_index": index,
        "images": rng.integers(0, 256, (rows, 1, size, size, 3), np.uint8),
    }


def torch_inputs(config: Llama3MedConfig, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """What transformers takes for the same batch; `labels` shifted as it expects them."""
    tower = config.vision.tower
    pixels = (batch["images"][:, 0].astype(np.float32) / 255 - np.float32(tower.mean)) / np.float32(tower.std)
    labels = np.full(batch["tokens"].shape, -100, np.int64)
    labels[:, 1:] = np.where(batch["loss_weights"][:, :-1] > 0, batch["tokens"][:, 1:], -100)
    return {
        "input_ids": torch.tensor(batch["tokens"].astype(np.int64)),
        "pixel_values": torch.tensor(pixels.transpose(0, 3, 1, 2)),
        "labels": torch.tensor(labels),
    }
