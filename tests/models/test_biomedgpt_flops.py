"""The counted operations against XLA's own count of the lowered program, where no loop hides any, and by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import merge, split
from biomedgpt_jax.layers.batch_norm import BatchNorm
from biomedgpt_jax.models.biomedgpt import make_biomedgpt
from biomedgpt_jax.models.biomedgpt_config import PRESETS, Learning, is_statistic
from biomedgpt_jax.models.biomedgpt_flops import forward_flops, train_flops

ROWS, SOURCE, TARGET = 2, 64, 48
HALF = (0.5, 0.5, 0.5)


CONFIG = replace(PRESETS["tiny"], encoder_layers=1, decoder_layers=1, stem_blocks=(1, 1, 1), vocab_size=2000)
STILL = Learning(dropout=0.0, drop_path=0.0, batch_norm=BatchNorm.FROZEN)
MODEL = make_biomedgpt(
    CONFIG, compute_dtype=jnp.float32, remat=Remat.NONE, learning=STILL, image_mean=HALF, image_std=HALF
)


def full_rows(image_size):
    ones = jnp.ones((ROWS, TARGET), jnp.int32)
    batch = {
        "source_tokens": jnp.ones((ROWS, SOURCE), jnp.int32),
        "source_mask": jnp.ones((ROWS, SOURCE), bool),
        "tokens": ones,
        "targets": ones,
        "segment_ids": ones,
        "positions": ones,
        "loss_weights": ones.astype(jnp.float32),
    }
    if image_size:
        batch |= {
            "images": jnp.zeros((ROWS, 1, image_size, image_size, 3), jnp.uint8),
            "image_mask": jnp.ones(ROWS, bool),
        }
    return batch


@pytest.mark.parametrize("image_size", [0, 96])
def test_forward_flops_are_what_the_program_has(image_size):
    batch = full_rows(image_size)

    def logits(params):
        return MODEL.unembed(params, MODEL.forward(params, batch))

    counted = jax.jit(logits).lower(jax.eval_shape(MODEL.init, jax.random.key(0))).cost_analysis()["flops"]
    ours = ROWS * forward_flops(CONFIG, SOURCE, TARGET, image_size, causal=False)
    assert 0.9 < ours / counted < 1.1, ours / counted


@pytest.mark.parametrize(("image_size", "embeddings"), [(0, True), (96, False)])
def test_flops_of_a_step_are_what_its_program_has(image_size, embeddings):
    """Within 5%: ours has a gradient of the pixels, and XLA counts norms and softmaxes too."""
    batch = full_rows(image_size)
    params = jax.eval_shape(MODEL.init, jax.random.key(0))
    learned = split(params, lambda path: not is_statistic(path) and (embeddings or not path.startswith("embed/")))

    def loss(trainable, rest):
        params = merge(trainable, rest)
        hidden, _ = MODEL.train(params, batch, jax.random.key(0))
        likely = jax.nn.log_softmax(MODEL.unembed(params, hidden))
        return -jnp.take_along_axis(likely, batch["targets"][..., None], axis=-1).sum()

    counted = jax.jit(jax.grad(loss)).lower(*learned).cost_analysis()["flops"]
    ours = ROWS * train_flops(CONFIG, SOURCE, TARGET, image_size, causal=False, embeddings=embeddings, head=True)
    assert 0.95 < ours / counted < 1.05, ours / counted


def test_a_step_of_a_small_text_model_by_hand():
    config = replace(PRESETS["tiny"], width=4, mlp_width=8, heads=2, encoder_layers=1, decoder_layers=1, vocab_size=100)
    encoder = 3 * (2 * 4 * 16 + 2 * 2 * 32 + 4 * 3 * 4)  # projections, MLP, scores and mixtures: 912
    itself = 2 * (2 * 4 * 16 + 2 * 2 * 32 + 4 * 2 * 4)  # 576
    across = 2 * (2 * 2 * 16 + 4 * 3 * 4) + 3 * (2 * 2 * 16)  # 416
    # Queries and keys of the positions and their products, in the encoder; the decoder's three projections, both ways.
    positions = 3 * (2 * 2 * 16 + 2 * 3 * 4) + 2 * (2 * 3 * 16 + 2 * 2 * 4 + 2 * 3 * 4)  # 536
    head = 2 * 2 * 4 * 128
    assert encoder + itself + across + positions == 2440
    assert forward_flops(config, 3, 2, 0, causal=False) == 2440 + head
    assert forward_flops(config, 3, 2, 0, causal=True) == 2440 - 2 * 2 * 2 * 4 + head
    counted = {
        (embeddings, words): train_flops(config, 3, 2, 0, causal=False, embeddings=embeddings, head=words)
        for embeddings in (True, False)
        for words in (True, False)
    }
    assert counted[True, True] == 3 * (2440 + head)
    assert counted[False, True] == 3 * 2440 + 2 * head
    assert counted[True, False] == counted[False, False] == 3 * 2440
