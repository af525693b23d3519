"""A tiny BiomedGPT with random weights, in torch and in ours, and batches for it."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch

from biomedgpt_jax.convert.biomedgpt import FAIRSEQ_RULES
from biomedgpt_jax.convert.mapping import import_tensors
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.models.biomedgpt import BiomedGpt, make_biomedgpt
from biomedgpt_jax.models.biomedgpt_config import BatchNorm, BiomedGptConfig, Learning, biomedgpt_preset
from tests.models.torch_biomedgpt import TorchBiomedGpt, random_biomedgpt

MEAN, STD = (0.5, 0.4, 0.6), (0.5, 0.3, 0.4)
STILL = Learning(dropout=0.0, drop_path=0.0, batch_norm=BatchNorm.FROZEN)
SIZES = {
    "width": 32,
    "heads": 4,
    "mlp_width": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "stem_width": 4,
    "stem_blocks": (3, 1, 1),
    "vocab_size": 300,
}
# Buffers and copies of the embedding, which are not parameters.
NOT_READ = (r".*(version|rp_bucket|image_position_idx|num_batches_tracked)", r"decoder\.(embed_tokens|output_p).*")


def tiny(**changes) -> BiomedGptConfig:
    return replace(biomedgpt_preset("smoke"), **(SIZES | changes))


@cache
def reference(config: BiomedGptConfig | None = None) -> SimpleNamespace:
    """`theirs`, `params` with the same numbers, and `bind(params)` for our modules."""
    config = config or tiny()
    theirs, ours = random_biomedgpt(config, seed=0), Functional(lambda rngs: BiomedGpt(config, rngs=rngs))
    params = params_of(theirs, config)
    return SimpleNamespace(config=config, theirs=theirs, params=params, bind=ours.bind)


def params_of(theirs: TorchBiomedGpt, config: BiomedGptConfig) -> Params:
    tensors = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    padding = config.padded_vocab_size - config.vocab_size
    table = tensors["encoder.embed_tokens.weight"]
    tensors["encoder.embed_tokens.weight"] = np.pad(table, ((0, padding), (0, 0)))
    shapes = {
        path: leaf.shape for path, leaf in leaf_paths(jax.eval_shape(make(config).init, jax.random.key(0))).items()
    }
    leaves = import_tensors(tensors, FAIRSEQ_RULES, shapes, where="torch", ignored=NOT_READ)
    return jax.tree.map(jnp.asarray, from_leaf_paths(dict(leaves)))


@cache
def make(config: BiomedGptConfig, learning: Learning = STILL, dtype=jnp.float32, remat: Remat = Remat.NONE) -> ModelFns:
    return make_biomedgpt(config, compute_dtype=dtype, remat=remat, learning=learning, image_mean=MEAN, image_std=STD)


def rows(
    source: tuple[int, ...], target: tuple[int, ...], *, image: int | None = None, seed: int = 0, vocab: int = 300
) -> dict[str, np.ndarray]:
    """A batch of rows with so many source and target words, padded to the longest, and pictures of `image` pixels."""
    random = np.random.default_rng(seed)
    b, t, s = len(source), max(source), max(target)
    source_mask = np.arange(t) < np.array(source)[:, None]
    here = np.arange(s) < np.array(target)[:, None]
    tokens = np.where(here, random.integers(4, vocab, (b, s)), 1)
    tokens[:, 0] = 0
    batch = {
        "source_tokens": np.where(source_mask, random.integers(4, vocab, (b, t)), 1),
        "source_mask": source_mask,
        "tokens": tokens,
        "targets": np.where(here, random.integers(4, vocab, (b, s)), 1),
        "loss_weights": here.astype(np.float32),
        "segment_ids": here.astype(np.int32),
        "positions": np.broadcast_to(np.arange(s), (b, s)),
    }
    if image is not None:
        batch["images"] = random.integers(0, 256, (b, 1, image, image, 3)).astype(np.uint8)
    return batch


def torch_logits(theirs: TorchBiomedGpt, batch: dict[str, np.ndarray]) -> np.ndarray:
    """What the reference says to a batch; `theirs.seen` keeps the parts."""
    arguments = {name: torch.tensor(batch[name]) for name in ("source_tokens", "source_mask", "tokens")}
    if "images" in batch:
        pixels = (batch["images"][:, 0].astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        if "image_hole" in batch:
            quarter = pixels.shape[1] // 4
            pixels[batch["image_hole"], quarter : 3 * quarter, quarter : 3 * quarter] = 0
        present = batch.get("image_mask", np.ones(len(pixels), bool))
        arguments |= {"images": torch.tensor(pixels).permute(0, 3, 1, 2), "image_mask": torch.tensor(present)}
    if "code_targets" in batch:
        arguments["codes"] = torch.tensor(batch["code_targets"])
    with torch.no_grad():
        return theirs(**arguments).numpy()
