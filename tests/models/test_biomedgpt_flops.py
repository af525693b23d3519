"""The counted operations against XLA's own count of the lowered program, where no loop hides any."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.layers.batch_norm import BatchNorm
from biomedgpt_jax.models.biomedgpt import make_biomedgpt
from biomedgpt_jax.models.biomedgpt_config import PRESETS, Learning
from biomedgpt_jax.models.biomedgpt_flops import forward_flops

ROWS, SOURCE, TARGET = 2, 64, 48
HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("image_size", [0, 96])
def test_forward_flops_are_what_the_program_has(image_size):
    config = replace(PRESETS["tiny"], encoder_layers=1, decoder_layers=1, stem_blocks=(1, 1, 1), vocab_size=2000)
    still = Learning(dropout=0.0, drop_path=0.0, batch_norm=BatchNorm.FROZEN)
    model = make_biomedgpt(
        config, compute_dtype=jnp.float32, remat=Remat.NONE, learning=still, image_mean=HALF, image_std=HALF
    )
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
    params = jax.eval_shape(model.init, jax.random.key(0))

    def logits(params):
        return model.unembed(params, model.forward(params, batch))

    counted = jax.jit(logits).lower(params).cost_analysis()["flops"]
    ours = ROWS * forward_flops(config, SOURCE, TARGET, image_size, causal=False)
    assert 0.9 < ours / counted < 1.1, ours / counted
