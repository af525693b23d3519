"""Tiny models with random weights and a trained tokenizer, exported, for the tests of this folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.convert.card import Card, Origin, Score
from biomedgpt_jax.convert.export import Exported, Form, export_model
from biomedgpt_jax.convert.leaves import Leaves, in_memory
from biomedgpt_jax.convert.processing import ExportText
from biomedgpt_jax.core.partition import map_with_path
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.tokenizer_export import to_tokenizer_json
from biomedgpt_jax.data.tokenizers import SentencePieceTokenizer, Tokenizer, train_sentencepiece
from biomedgpt_jax.layers.position import RopeScaling
from biomedgpt_jax.models.connector import connector_from_name
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, make_llama3_med
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import clip, dinov2, h_optimus, siglip
from biomedgpt_jax.models.vision import VisionConfig, feature_widths
from biomedgpt_jax.models.vit import Features, VitConfig

SIZES = {"patch": 7, "width": 24, "depth": 3, "heads": 2, "hidden": 40}
TOWERS: dict[str, VitConfig] = {
    "clip": replace(clip(image_size=28, **SIZES), eps=3e-4),
    "siglip": siglip(image_size=30, **SIZES),  # two pixels are cut off, as of 384 with patches of 14
    "dinov2": dinov2(image_size=35, **{**SIZES, "hidden": 48}, gated=False, registers=0),
    "dinov2-registers": dinov2(image_size=35, **{**SIZES, "hidden": 64}, gated=True, registers=4),
    "h-optimus": h_optimus(image_size=28, width=24, depth=3, heads=2, hidden=40),
}
PENULTIMATE = Features(layer=-2, final_norm=False, keep_prefix=False)
TEXT = ["What organ is shown? Liver.", "Is there a fracture? No, there is no fracture in this image."] * 40
DECODER = replace(
    PRESETS["tiny"],
    vocab_size=330,
    width=40,
    heads=5,
    kv_heads=1,
    head_dim=16,
    eps=3e-5,
    rope_scaling=RopeScaling(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=64),
)


@dataclass(frozen=True)
class Tiny:
    config: Llama3MedConfig
    params: Params
    fns: ModelFns

    @cached_property
    def leaves(self) -> Leaves:
        return in_memory(self.params)

    @cached_property
    def compiled(self) -> Callable:
        return jax.jit(lambda params, batch: self.fns.unembed(params, self.fns.forward(params, batch)))

    def batch(self, tokens: np.ndarray, images: np.ndarray, image_id: int) -> dict[str, jax.Array]:
        """Ids [b s]; images uint8 [b i h w 3], whose features take the image positions in order."""
        places = tokens == image_id
        index = np.where(places, np.cumsum(places, axis=1) - 1, -1)
        ones = np.ones_like(tokens)
        return {
            "tokens": jnp.asarray(tokens, jnp.int32),
            "segment_ids": jnp.asarray(ones, jnp.int32),
            "positions": jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape),
            "image_index": jnp.asarray(index, jnp.int32),
            "images": jnp.asarray(images),
        }

    def logits(self, tokens: np.ndarray, images: np.ndarray, image_id: int) -> np.ndarray:
        batch = self.batch(tokens, images, image_id)
        return np.asarray(self.compiled(self.params, batch))


def tiny(
    tower: VitConfig,
    *,
    scales: tuple[int, ...] | None = None,
    connector: str = "mlp2x_gelu",
    features: Features = PENULTIMATE,
    second: VitConfig | None = None,
    decoder=DECODER,
    output: MapSize = MapSize.SMALLEST,
    **sizes: int,
) -> Tiny:
    """Every leaf is random, so that a bias or a scale that gets lost shows. `sizes` are the connector's."""
    s2 = S2Config(scales or (tower.image_size,), output)
    vision = VisionConfig(tower, second, s2, features)
    joint = replace(connector_from_name(connector, feature_widths(vision), decoder.width), **sizes)
    config = Llama3MedConfig(vision, joint, decoder)
    fns = make_llama3_med(config, compute_dtype=jnp.float32, remat=NO_REMAT, lora=None)
    rng = np.random.default_rng(7)

    def randomise(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        around = 1.0 if path.endswith("scale") or "/scale" in path else 0.0
        fan = max(1, int(np.prod(leaf.shape[1:-1]))) if leaf.ndim > 1 else 4
        return jnp.asarray(around + rng.standard_normal(leaf.shape) * min(0.5, fan**-0.5), jnp.float32)

    # Only shapes are asked of `init`: running it would cost seconds.
    return Tiny(config, map_with_path(randomise, jax.eval_shape(fns.init, jax.random.key(0))), fns)


@cache
def tokenizer(folder: Path) -> SentencePieceTokenizer:
    return train_sentencepiece(TEXT, folder / "tokenizer.model", 330)


def export_text(folder: Path, of: Tokenizer, template: str = "llama3") -> ExportText:
    target = folder / "tokenizer"
    to_tokenizer_json(of, target, TEMPLATES[template])
    return ExportText(target, of.bos_id, of.stop_ids, of.pad_id, of.image_token_id, context=512, template=template)


CARD = Card(
    title="Tiny test model",
    licence="apache-2.0",
    origins=(Origin("random numbers", "decoder", "cc0-1.0", "ab" * 32), Origin("nobody", "tower", None, None)),
    scores=(Score("vqa_rad", "strict/v1", "closed accuracy", 0.5, 0.4, 0.6, 10, 0.489),),
    notes=("A note | with a bar.",),
    companions={},
)


def exported(folder: Path, model: Tiny, text: ExportText, form: Form | None = None, geometry: str = "pad") -> Exported:
    return export_model(folder, model.leaves, model.config, text, geometry, CARD, form=form)


def read_json(file: Path) -> dict:
    return json.loads(file.read_text())
