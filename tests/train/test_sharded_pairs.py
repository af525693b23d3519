"""The train step of a BiomedGPT on meshes of eight devices, whatever it computes again: the same numbers as on one.

With statistics of all rows and of each device's, with the words of the whole vocabulary and those of a closed list.
"""

import math
import re
from dataclasses import astuple, dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.placing import place_batch
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.models.biomedgpt_config import BatchNorm, Learning
from biomedgpt_jax.train.objectives import all_words, allowed_words, per_token
from biomedgpt_jax.train.optim import Optimizer
from biomedgpt_jax.train.state import abstract_state, first_state
from biomedgpt_jax.train.step import StepSettings, compile_step, make_train_step
from tests.models.biomedgpt_rows import make, params_of, rows, tiny
from tests.models.torch_biomedgpt import random_biomedgpt

ONE = MeshShape(data=1, fsdp=1, tensor=1, context=1)
# Keys moved by one vector leave every softmax as it is, so the gradient of their bias is rounding alone.
KEY_BIAS = r".*(attention/k|positions/(k|self_k|cross_k))/bias"
CONFIG = tiny(encoder_layers=1, decoder_layers=1, stem_blocks=(2, 1, 1))
ANSWERS = ((20, 30, 2), (20, 31, 32, 2), (299, 2), (40, 41, 2))  # word 299 is the last before the padding
TRIE = build_trie(ANSWERS)
TARGETS = (6, 4, 5, 5, 4, 4, 6, 4)
SMOOTHING = 0.1
OPEN = per_token(all_words(chunk_size=4, label_smoothing=SMOOTHING, z_loss=0.0, vocab_size=CONFIG.vocab_size))
CLOSED = per_token(allowed_words(TRIE.words, TRIE.next, label_smoothing=SMOOTHING))


def batch():
    """Rows with and without a picture and with image codes; each ends with one of the answers, which alone counts."""
    made = rows((9, 6, 7, 3, 9, 9, 2, 5), TARGETS, image=32) | {
        "image_mask": np.array([True, False] + [True] * 6),
        "code_targets": np.array([False, False, True] + [False] * 5),
    }
    made["loss_weights"] = np.zeros_like(made["loss_weights"])
    made["answer_nodes"] = np.full(made["targets"].shape, -1)
    for row, length in enumerate(TARGETS):
        answer = ANSWERS[row % 2 + 2 * (row > 3)]
        said = slice(length - len(answer), length)
        made["targets"][row, said], made["answer_nodes"][row, said] = answer, TRIE.nodes(answer)
        made["loss_weights"][row, said] = 1 + row % 2  # a weight of 2 counts a loss twice
    return made


@dataclass(frozen=True)
class Stepped:
    """After one step whose update is the gradient itself."""

    metrics: dict
    trained: dict
    gradients: dict
    statistics: dict


@cache
def params():
    return jax.device_get(params_of(random_biomedgpt(CONFIG, seed=1), CONFIG))


@cache
def step_on(shape, learning, objective, remat):
    """Makes a `Stepped` of a batch."""
    model = make(CONFIG, learning, remat=remat)
    mesh = make_mesh(shape, jax.devices()[: math.prod(astuple(shape))])
    climb = Optimizer(optax.trace(decay=0.0), learning_rates=lambda _: {}, group_of={}, peaks={})
    abstract = abstract_state(model, climb, lambda path: True, mesh=mesh, frozen_dtype=jnp.float32)
    settings = StepSettings(1, objective, tokens_per_image=0, seed=0, average_decay=0.0)
    step = compile_step(make_train_step(model, climb, settings), abstract, mesh)
    first = first_state(abstract, climb, params())

    def run(batch):
        with jax.set_mesh(mesh):
            after, metrics = step(jax.tree.map(jnp.copy, first), place_batch(batch, mesh))  # the step donates it
        trees = jax.device_get((after.trainable, after.opt_state.trace, after.statistics))
        return Stepped(jax.device_get(metrics), *map(leaf_paths, trees))

    return run


def assert_same(found, expected):
    for name in ("loss", "accuracy", "supervised_tokens", "images"):
        np.testing.assert_allclose(found.metrics[name], expected.metrics[name], rtol=1e-5, err_msg=name)
    assert found.statistics.keys() == expected.statistics.keys() and found.statistics
    for path, leaf in expected.statistics.items():
        np.testing.assert_allclose(found.statistics[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)
    for path, leaf in expected.gradients.items():
        largest = np.abs(leaf).max()
        if re.fullmatch(KEY_BIAS, path):
            assert largest < 1e-5, path
            continue
        assert largest > 0, path
        # BatchNorms take means off gradients, which leaves small differences of large sums.
        tolerance = largest * (1e-4 if "/stem/" in path else 1e-5)
        np.testing.assert_allclose(found.gradients[path], leaf, rtol=0, atol=tolerance, err_msg=path)
        np.testing.assert_allclose(found.trained[path], expected.trained[path], rtol=1e-6, atol=tolerance, err_msg=path)


SYNCED = Learning(dropout=0.1, drop_path=0.1, batch_norm=BatchNorm.SYNCED)
LOCAL = Learning(dropout=0.0, drop_path=0.0, batch_norm=BatchNorm.LOCAL)
MESHES = {
    "fsdp=8": (MeshShape(data=1, fsdp=8, tensor=1, context=1), Remat.NONE),
    "fsdp=2 tensor=2 context=2": (MeshShape(data=1, fsdp=2, tensor=2, context=2), Remat.OFFLOAD),
}


@pytest.mark.parametrize("name", MESHES)
def test_a_step_with_statistics_of_all_rows_equals_that_of_one_device(name):
    shape, remat = MESHES[name]
    found = step_on(shape, SYNCED, OPEN, remat)(batch())
    assert_same(found, step_on(ONE, SYNCED, OPEN, Remat.NONE)(batch()))
    assert all(np.abs(leaf - leaf_paths(params())[path]).max() > 1e-3 for path, leaf in found.statistics.items())


def test_with_local_statistics_each_device_normalises_its_own_rows():
    """Eight rows on eight devices, answers of a closed list: the sum of what eight steps of one row each give."""
    alone = step_on(ONE, LOCAL, CLOSED, Remat.NONE)
    single = [alone({name: array[row : row + 1] for name, array in batch().items()}) for row in range(len(TARGETS))]
    weights = np.array([each.metrics["supervised_tokens"] for each in single])

    def together(values, weights=weights):
        return np.tensordot(weights / weights.sum(), np.stack(values), 1).astype(np.float32)

    gradients = {path: together([each.gradients[path] for each in single]) for path in single[0].gradients}
    shown, weighty = (np.array([each.metrics["images"] for each in single]), batch()["loss_weights"].sum(axis=1))
    metrics = {
        "loss": together([each.metrics["loss"] for each in single]),
        "accuracy": together([each.metrics["accuracy"] for each in single], weighty),
        "supervised_tokens": weights.sum(),
        "images": shown.sum(),
    }
    expected = Stepped(
        metrics,
        {path: leaf_paths(params())[path] + leaf for path, leaf in gradients.items()},
        gradients,
        {path: together([each.statistics[path] for each in single], shown) for path in single[0].statistics},
    )
    found = step_on(MeshShape(data=2, fsdp=2, tensor=2, context=1), LOCAL, CLOSED, Remat.FULL)(batch())
    assert_same(found, expected)
    assert shown.sum() == 7 and found.metrics["accuracy"] > 0
