"""A tiny Llama3-Med with an S2 pyramid, packed rows for it, and its gradients on any mesh."""

import math
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import optax

from biomedgpt_jax.core.lora import Lora
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import map_with_path
from biomedgpt_jax.core.placing import place_batch
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import ModelFns, TrainState
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.connector import MlpConfig
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama3_med import Llama3MedConfig, PartRemat, Tune, make_llama3_med, trainable
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import clip
from biomedgpt_jax.models.vision import VisionConfig
from biomedgpt_jax.models.vit import Features
from biomedgpt_jax.train.objectives import all_words
from biomedgpt_jax.train.optim import Optimizer
from biomedgpt_jax.train.state import abstract_state, first_state
from biomedgpt_jax.train.step import Step, StepSettings, compile_step, make_train_step
from tests.models.image_rows import PER_IMAGE, make_batch

ROWS, TOKENS, SLOTS = 8, 48, 2
# Five tiles an image: the picture itself and its quarters. 28 pixels are four patches.
VISION = VisionConfig(
    clip(image_size=28, patch=14, width=16, depth=2, heads=2, hidden=40),
    None,
    S2Config((28, 56), MapSize.SMALLEST),
    Features(layer=-1, final_norm=True, keep_prefix=False),
)
CONFIG = Llama3MedConfig(VISION, MlpConfig(2, Activation.GELU, 32, 32), PRESETS["tiny"])
KINDS = {
    "two": [3, "image", *range(40, 50), "image", 7, "next", *range(5, 25)],
    "three": ["image", *range(1, 17), "next", *range(20, 36), "next", 9, "image", 8, 7],
    "text": [*range(5, 25), "next", *range(30, 40)],
    "last": [*range(20, 36), "image"],
}


@dataclass(frozen=True)
class Med:
    """A model under its mesh, whose step leaves the gradients of the batch in the optimizer's state."""

    model: ModelFns
    optimizer: Optimizer
    abstract: TrainState
    mesh: jax.sharding.Mesh
    step: Step

    @cached_property
    def compiled(self):
        with jax.set_mesh(self.mesh):
            return self.step.lower(self.abstract, place_batch(rows(), self.mesh)).compile()

    def gradients(self, params, batch):
        """(metrics, gradients) of the weights `params`, wherever they lie."""
        with jax.set_mesh(self.mesh):
            state = first_state(self.abstract, self.optimizer, jax.device_get(params))
            # A program compiled ahead of time does not take 4-bit arrays as jax lays them out on a CPU.
            packed = any(leaf.dtype == jnp.int4 for leaf in jax.tree.leaves(state.frozen))
            run = self.step if packed else self.compiled
            after, metrics = run(state, place_batch(batch, self.mesh))
        return jax.device_get(metrics), jax.device_get(after.opt_state.trace)


def make_med(
    *, data=1, fsdp=1, tensor=1, context=1, parts=1, tower=True, tune=Tune.FULL, lora: Lora | None = None
) -> Med:
    mesh = make_mesh(MeshShape(data, fsdp, tensor, context), jax.devices()[: math.prod((data, fsdp, tensor, context))])
    remat = PartRemat(tower=Remat.NONE, decoder=Remat.FULL)
    model = make_llama3_med(CONFIG, compute_dtype=jnp.float32, remat=remat, lora=lora)
    is_trainable = trainable(CONFIG, tower=tower, connector=True, decoder=tune)
    keep = Optimizer(optax.trace(decay=0.0), learning_rates=lambda _: {}, group_of={}, peaks={})
    abstract = abstract_state(model, keep, is_trainable, mesh=mesh, frozen_dtype=jnp.float32)
    settings = StepSettings(
        parts,
        all_words(chunk_size=10, label_smoothing=0.0, z_loss=1e-4, vocab_size=None),
        tokens_per_image=PER_IMAGE,
        seed=0,
        average_decay=0.0,
    )
    return Med(model, keep, abstract, mesh, compile_step(make_train_step(model, keep, settings), abstract, mesh))


def random_params(seed=0):
    """Of the plain model, large enough that every part matters."""
    shapes = jax.eval_shape(make_med().model.init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(0, 0.2, leaf.shape).astype(np.float32)
        return noise + 1 if path.endswith("scale") else noise

    return map_with_path(draw, shapes)


def rows(kinds=("two", "three", "text", "last") * 2):
    """Numpy arrays of packed rows; some positions count, and each is to predict the next token of its segment."""
    batch = make_batch([KINDS[kind] for kind in kinds], slots=SLOTS, length=TOKENS, size=VISION.s2.image_size)
    batch = {name: np.asarray(array) for name, array in batch.items()}
    inside = np.zeros((len(kinds), TOKENS), bool)
    inside[:, :-1] = batch["segment_ids"][:, 1:] == batch["segment_ids"][:, :-1]
    counts = inside & (batch["segment_ids"] > 0) & (np.random.default_rng(1).random(inside.shape) < 0.6)
    targets = np.where(counts, np.roll(batch["tokens"], -1, axis=1), 0)
    return {**batch, "loss_weights": counts.astype(np.float32), "targets": targets}
