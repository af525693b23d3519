"""A model small enough to train in milliseconds, with every kind of part that the trainer must handle."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.partition import split
from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shard
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.train.objectives import all_words
from biomedgpt_jax.train.optim import Decay, OptimConfig, make_optimizer
from biomedgpt_jax.train.state import abstract_state, first_state
from biomedgpt_jax.train.step import StepSettings

WORDS, WIDTH, HIDDEN, LAYERS = 32, 16, 32, 2
PATCHES, PIXELS, SLOTS = 4, 4, 2  # an image of 4x4 pixels is 4 patches of 2x2

AXES = {
    "tower": {"patch_embed": {"kernel": ("features", "embed")}},
    "connector": {"kernel": ("features", "embed"), "bias": ("embed",)},
    "decoder": {
        "embed": {"embedding": ("vocab", "embed")},
        "layers": {
            "norm": {"scale": ("layers", "norm")},
            "up": {"kernel": ("layers", "embed", "mlp")},
            "down": {"kernel": ("layers", "mlp", "embed")},
        },
        "lm_head": {"kernel": ("embed", "vocab")},
    },
}


def toy_model() -> ModelFns:
    return ModelFns(
        init=_init, axes=lambda: AXES, forward=_forward, unembed=_unembed, head=_head, prefill=_none, decode=_none
    )


@dataclass(frozen=True)
class Toy:
    model: ModelFns
    optimizer: object
    abstract: object
    mesh: object

    def state(self, seed=0):
        params = jax.jit(self.model.init)(jax.random.key(seed))
        return first_state(self.abstract, self.optimizer, params)


def make_toy(
    mesh_shape=(1, 1),
    *,
    trainable=("connector", "decoder"),
    frozen_dtype=jnp.float32,
    total_steps=100,
    **optim,
):
    model = toy_model()
    fsdp, tensor = mesh_shape
    mesh = make_mesh(MeshShape(1, fsdp, tensor, 1), jax.devices()[: fsdp * tensor])

    def is_trainable(path):
        return path.startswith(trainable)

    optimizer = make_optimizer(toy_optim(total_steps, **optim), split(model.axes(), is_trainable)[0])
    abstract = abstract_state(model, optimizer, is_trainable, mesh=mesh, frozen_dtype=frozen_dtype)
    return Toy(model, optimizer, abstract, mesh)


def toy_optim(total_steps, **changes):
    base = {
        "learning_rate": 1e-2,
        "group_rates": {},
        "total_steps": total_steps,
        "warmup_ratio": 0.03,
        "rate_decay": Decay.COSINE,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decay_vectors": False,
        "clip_norm": 1.0,
    }
    return OptimConfig(**(base | changes))


def toy_settings(**changes):
    base = {
        "micro_batches": 1,
        "objective": all_words(chunk_size=5, label_smoothing=0.0, z_loss=1e-4, vocab_size=None),
        "tokens_per_image": PATCHES,
        "seed": 0,
        "average_decay": 0.0,
    }
    return StepSettings(**(base | changes))


def toy_batch(seed=0, rows=8, length=12):
    """Ragged rows: one image in front of the even ones, padding at the end, few supervised tokens."""
    rng = np.random.default_rng(seed)
    used = rng.integers(PATCHES + 3, length, size=(rows, 1))
    column = np.arange(length)[None]
    has_image = (np.arange(rows) % 2 == 0)[:, None]
    inside = column < used
    return {
        "tokens": np.where(inside, rng.integers(0, WORDS, (rows, length)), 0).astype(np.int32),
        "targets": rng.integers(0, WORDS, (rows, length)).astype(np.int32),
        "loss_weights": (inside & (column >= PATCHES) & (rng.random((rows, length)) < 0.6)).astype(np.float32),
        "segment_ids": inside.astype(np.int32),
        "positions": np.where(inside, column, 0).astype(np.int32),
        "image_index": np.where(has_image & (column < PATCHES), column, -1).astype(np.int32),
        "images": rng.integers(0, 256, (rows, SLOTS, PIXELS, PIXELS, 3)).astype(np.uint8),
    }


def _init(key):
    keys = iter(jax.random.split(key, 6))

    def normal(*shape):
        return jax.random.normal(next(keys), shape, jnp.float32) / np.sqrt(shape[-2])

    return {
        "tower": {"patch_embed": {"kernel": normal(12, WIDTH)}},
        "connector": {"kernel": normal(WIDTH, WIDTH), "bias": jnp.zeros(WIDTH)},
        "decoder": {
            "embed": {"embedding": normal(WORDS, WIDTH)},
            "layers": {
                "norm": {"scale": jnp.ones((LAYERS, WIDTH))},
                "up": {"kernel": normal(LAYERS, WIDTH, HIDDEN)},
                "down": {"kernel": normal(LAYERS, HIDDEN, WIDTH)},
            },
            "lm_head": {"kernel": normal(WIDTH, WORDS)},
        },
    }


def _forward(params, batch):
    tower = params["tower"]["patch_embed"]["kernel"]
    rows = batch["images"].shape[0]
    pixels = batch["images"].astype(tower.dtype) / 255
    patches = pixels.reshape(rows, SLOTS, 2, 2, 2, 2, 3).swapaxes(3, 4).reshape(rows, SLOTS * PATCHES, 12)
    features = jnp.tanh(jnp.einsum("bnp,pd->bnd", patches, tower))
    features = jnp.einsum("bnd,de->bne", features, params["connector"]["kernel"]) + params["connector"]["bias"]
    index = batch["image_index"]
    image_tokens = jnp.take_along_axis(features, jnp.maximum(index, 0)[..., None], axis=1)
    words = params["decoder"]["embed"]["embedding"][batch["tokens"]]
    x = shard(jnp.where(index[..., None] >= 0, image_tokens, words), "batch", "length", "activation_embed")

    def layer(x, weights):
        # A running mean over the row stands for attention: every position sees the ones before it.
        seen = jnp.cumsum(x, axis=1) / jnp.arange(1, x.shape[1] + 1)[:, None]
        up = jax.nn.gelu(jnp.einsum("bsd,df->bsf", seen * weights["norm"]["scale"], weights["up"]["kernel"]))
        up = shard(up, "batch", "length", "activation_mlp")
        return x + jnp.einsum("bsf,fd->bsd", up, weights["down"]["kernel"]), None

    return jax.lax.scan(layer, x, params["decoder"]["layers"])[0]


def _unembed(params, hidden):
    return jnp.einsum("...d,dv->...v", hidden, params["decoder"]["lm_head"]["kernel"])


def _head(params):
    return params["decoder"]["lm_head"]["kernel"]


def _none(*_):
    raise NotImplementedError("the toy is only trained, never asked")
