"""Counts from the trace against closed forms, at the full size of H-optimus-0 with Llama-3.1-8B."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest

from biomedgpt_jax.core.lora import BaseWeights, Lora
from biomedgpt_jax.models.connector import connector_from_name
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.flops import Flops, matmul_flops, train_flops
from biomedgpt_jax.models.llama import ALL_LINEARS
from biomedgpt_jax.models.llama3_med import Llama3MedConfig, Tune, trainable
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import FINAL_PATCHES, TOWERS
from biomedgpt_jax.models.vision import VisionConfig, feature_widths

ROW = 1024
DECODER = PRESETS["llama-3.1-8b"]
MATRICES = 8_030_261_248 - DECODER.vocab_size * DECODER.width - (2 * DECODER.depth + 1) * DECODER.width
ATTENTION = 4 * ROW * DECODER.heads * DECODER.head_dim * DECODER.depth  # per token, forward
TOWER = 46 * 2 * 40 * (4 * 1536**2 + 3 * 1536 * 4096) * 261  # 46 tiles, 40 blocks, 261 tokens
TOWER += 46 * (40 * 4 * 261**2 * 1536 + 2 * 256 * 3 * 14**2 * 1536)
CONNECTOR = 2 * 256 * (4608 * 4096 + 4096 * 4096)


@cache
def config() -> Llama3MedConfig:
    vision = VisionConfig(
        TOWERS["bioptimus/H-optimus-0"], None, S2Config((224, 672, 1344), MapSize.SMALLEST), FINAL_PATCHES
    )
    return Llama3MedConfig(vision, connector_from_name("mlp2x_gelu", feature_widths(vision), DECODER.width), DECODER)


def count(tower: bool, connector: bool, decoder: Tune, lora: Lora | None = None, run_tower: bool = True) -> Flops:
    is_trainable = trainable(config(), tower=tower, connector=connector, decoder=decoder)
    return train_flops(config(), is_trainable, row_tokens=ROW, lora=lora, run_tower=run_tower)


def test_forward_alone():
    flops = count(False, False, Tune.FROZEN)
    assert flops.per_token == 2 * MATRICES + ATTENTION
    assert flops.per_token_causal == 2 * MATRICES + ATTENTION / 2
    assert flops.per_image == TOWER + CONNECTOR
    assert flops.per_image == pytest.approx(28e12, rel=0.01)  # the estimate of the fact sheet


def test_stage_1_goes_back_through_the_frozen_decoder_but_not_into_the_tower():
    flops = count(False, True, Tune.FROZEN)
    assert flops.per_token == 2 * 2 * MATRICES + 3 * ATTENTION
    # Of the connector's first layer only the weights need a gradient.
    assert flops.per_image == TOWER + 2 * CONNECTOR + 2 * 256 * 4096 * 4096


def test_cached_features_spare_the_tower():
    online, cached = (count(False, True, Tune.FROZEN, run_tower=run_tower) for run_tower in (True, False))
    assert cached.per_token == online.per_token
    assert cached.per_image == online.per_image - TOWER == 2 * CONNECTOR + 2 * 256 * 4096 * 4096


def test_full_tuning_costs_three_forward_passes():
    flops = count(False, True, Tune.FULL)
    assert flops.per_token == 3 * (2 * MATRICES + ATTENTION)


def test_a_trained_tower_is_paid_for():
    flops = count(True, True, Tune.FULL)
    pixels = 46 * 2 * 256 * 3 * 14**2 * 1536  # nothing flows back into the pixels
    assert flops.per_image == 3 * (TOWER + CONNECTOR) - pixels


def test_lora_spares_the_gradients_of_the_base():
    lora = Lora(rank=128, alpha=256.0, targets=ALL_LINEARS, base=BaseWeights.FLOAT, tile=None)
    flops = count(False, True, Tune.LORA, lora)
    assert flops.per_token == 2 * 2 * MATRICES + 3 * ATTENTION + 3 * 2 * 335_544_320


def test_a_scanned_product_counts_as_often_as_it_runs():
    def run(x):
        return jax.lax.scan(lambda x, _: (jnp.einsum("ij,jk->ik", x, x), None), x, None, length=5)[0]

    assert matmul_flops(run, jax.ShapeDtypeStruct((3, 3), jnp.float32)) == (5 * 2 * 27, 0)
