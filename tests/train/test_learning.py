"""Models that learn otherwise than they answer: running statistics, random masks, moving averages of the weights."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.checkpoint.base import save_base
from biomedgpt_jax.checkpoint.run import RunCheckpoints
from biomedgpt_jax.checkpoint.start import from_run
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.placing import place_batch
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.train.optim import make_optimizer
from biomedgpt_jax.train.state import abstract_state, answering_params, first_state
from biomedgpt_jax.train.step import compile_step, make_train_step
from tests.train.toy import toy_optim, toy_settings

WORDS, WIDTH, ROWS, LENGTH, DECAY = 11, 4, 8, 5, 0.75
AXES = {"embed": {"embedding": ("vocab", "embed")}, "head": {"kernel": ("embed", "vocab")}, "norm": {"mean": ("norm",)}}


def _init(key):
    one, two = jax.random.split(key)
    return {
        "embed": {"embedding": jax.random.normal(one, (WORDS, WIDTH))},
        "head": {"kernel": jax.random.normal(two, (WIDTH, WORDS))},
        "norm": {"mean": jnp.zeros(WIDTH)},
    }


def _forward(params, batch):
    return params["embed"]["embedding"][batch["tokens"]] - params["norm"]["mean"]


def _train(params, batch, key):
    words = params["embed"]["embedding"][batch["tokens"]]
    mean = 0.9 * params["norm"]["mean"] + 0.1 * jnp.mean(jax.lax.stop_gradient(words), axis=(0, 1))
    noise = jax.random.normal(key, words.shape[1:])
    return words - params["norm"]["mean"] + noise, {"norm": {"mean": mean}}


def _none(*_):
    raise NotImplementedError("this model is only trained")


MODEL = ModelFns(
    init=_init,
    axes=lambda: AXES,
    forward=_forward,
    unembed=_none,
    head=lambda params: params["head"]["kernel"],
    prefill=_none,
    decode=_none,
    train=_train,
    is_statistic=lambda path: path.endswith("/mean"),
)


def _batch(number):
    rng = np.random.default_rng(number)
    tokens = rng.integers(0, WORDS, (ROWS, LENGTH)).astype(np.int32)
    ones = np.ones((ROWS, LENGTH), np.int32)
    return {
        "source_tokens": tokens[:, :3],
        "source_mask": ones[:, :3] > 0,
        "tokens": tokens,
        "targets": (tokens + 1) % WORDS,
        "loss_weights": np.float32(ones),
        "segment_ids": ones,
        "positions": np.cumsum(ones, axis=1) - 1,
        "images": np.zeros((ROWS, 1, 2, 2, 3), np.uint8),
        "image_mask": np.arange(ROWS) % 4 == 0,
    }


class _Trainer:
    """The model with its optimizer and compiled step; the embedding is frozen in bfloat16, or trained."""

    def __init__(self, *, trained=("embed", "head"), **settings):
        self.mesh = make_mesh(MeshShape(1, 1, 1, 1), jax.devices()[:1])
        self.optimizer = make_optimizer(toy_optim(20), {name: AXES[name] for name in trained})
        self.abstract = abstract_state(
            MODEL,
            self.optimizer,
            lambda path: path.startswith(trained),
            mesh=self.mesh,
            frozen_dtype=jnp.bfloat16,
            averaged=True,
        )
        step = make_train_step(MODEL, self.optimizer, toy_settings(seed=3, average_decay=DECAY, **settings))
        self.step = compile_step(step, self.abstract, self.mesh)

    def first(self):
        return first_state(self.abstract, self.optimizer, jax.jit(_init)(jax.random.key(0)))

    def run(self, state, steps):
        """The state after each of some steps, the given one first, and their metrics; on the host."""
        states, metrics = [jax.device_get(state)], []
        for number in range(int(state.step), int(state.step) + steps):
            state, found = self.step(state, place_batch(_batch(number), self.mesh))
            states.append(jax.device_get(state))
            metrics.append(jax.device_get(found))
        return state, states, metrics


@pytest.fixture(scope="module")
def halves():
    """Three steps in two micro-batches each."""
    trainer = _Trainer(micro_batches=2)
    return trainer, *trainer.run(trainer.first(), 3)[1:]


def test_micro_batches_hand_the_statistics_on(halves):
    _, states, _ = halves
    for step, (before, after) in enumerate(pairwise(states)):
        mean = before.statistics["norm"]["mean"]
        for part in range(2):
            words = before.trainable["embed"]["embedding"][_batch(step)["tokens"][part::2]]
            mean = 0.9 * mean + 0.1 * words.mean(axis=(0, 1))
        np.testing.assert_allclose(after.statistics["norm"]["mean"], mean, rtol=1e-5, atol=1e-7)


def test_each_step_and_part_draws_of_its_own(halves):
    _, states, metrics = halves
    for step in range(3):
        losses, statistics = [], states[step].statistics
        for part in range(2):
            batch = {name: array[part::2] for name, array in _batch(step).items()}
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), step), part)
            params = {**states[step].trainable, **statistics}
            hidden, statistics = _train(params, batch, key)
            logits = hidden @ params["head"]["kernel"]
            normaliser = jax.nn.logsumexp(logits, axis=-1)
            target = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
            losses.append(jnp.mean(normaliser - target + 1e-4 * normaliser**2))
        np.testing.assert_allclose(metrics[step]["loss"], np.mean(losses), rtol=1e-5)


def test_the_average_follows_what_is_trained(halves):
    _, states, _ = halves
    average = states[0].trainable
    for state in states[1:]:
        average = jax.tree.map(lambda old, new: DECAY * old + (1 - DECAY) * new, average, state.trainable)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), state.average, average)
    assert np.abs(average["head"]["kernel"] - states[-1].trainable["head"]["kernel"]).max() > 1e-3
    answering = answering_params(states[-1])
    np.testing.assert_array_equal(answering["head"]["kernel"], states[-1].average["head"]["kernel"])
    assert answering["norm"]["mean"].dtype == np.float32


def test_frozen_leaves_have_no_average_and_statistics_stay_float32():
    trainer = _Trainer(trained=("head",))
    state = trainer.abstract
    assert list(leaf_paths(state.average)) == ["head/kernel"] and list(leaf_paths(state.frozen)) == ["embed/embedding"]
    assert state.frozen["embed"]["embedding"].dtype == jnp.bfloat16
    assert leaf_paths(state.statistics)["norm/mean"].dtype == jnp.float32


def test_images_and_tokens_of_pairs_are_counted(halves):
    _, _, metrics = halves
    assert metrics[0]["images"] == 2 and metrics[0]["tokens"] == ROWS * (LENGTH + 3)
    assert metrics[0]["padding_share"] == 0


def test_a_bad_step_leaves_statistics_and_average_alone(halves):
    trainer, states, _ = halves
    batch = _batch(0)
    batch["loss_weights"][0, 0] = np.inf
    state, _ = trainer.step(trainer.first(), place_batch(_batch(0), trainer.mesh))
    before = jax.device_get(state)
    after, metrics = trainer.step(state, place_batch(batch, trainer.mesh))
    assert not np.isfinite(metrics["loss"]) and after.step == 2
    for name in ("trainable", "statistics", "average"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), jax.device_get(getattr(after, name)))
    jax.tree.map(np.testing.assert_array_equal, before.statistics, states[1].statistics)


class _Place:
    """Stands where a data iterator does."""

    def get_state(self):
        return {"row": 5}

    def set_state(self, state):
        assert state == {"row": 5}


def test_a_resumed_run_ends_in_the_same_bits_and_answers_with_the_average(halves, tmp_path):
    trainer, states, _ = halves
    state, _, _ = trainer.run(trainer.first(), 1)
    with RunCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, _Place(), config={}, base=save_base(tmp_path, state.frozen))
    with RunCheckpoints(tmp_path, keep=1) as checkpoints:
        restored, _ = checkpoints.restore(1, trainer.abstract, _Place())
    _, resumed, _ = trainer.run(restored, 2)
    jax.tree.map(np.testing.assert_array_equal, resumed[-1], states[-1])

    source = from_run(tmp_path)
    expected = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        answering_params(trainer.abstract),
    )
    assert source.shapes.keys() == leaf_paths(expected).keys()
    jax.tree.map(np.testing.assert_array_equal, source.load(expected), answering_params(states[1]))
