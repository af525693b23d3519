import io
import json

import jax
import jax.numpy as jnp
from rich.console import Console

from biomedgpt_jax.train.ledger import ledger_json, make_ledger, print_ledger
from tests.train.toy import HIDDEN, LAYERS, WIDTH, WORDS, make_toy


def _ledger(mesh_shape=(4, 2)):
    toy = make_toy(
        mesh_shape, trainable=("connector", "decoder/layers"), frozen_dtype=jnp.bfloat16, group_rates={"connector": 0.5}
    )
    return make_ledger(toy.abstract, toy.optimizer), toy


def test_ledger_counts_parameters_rates_layout_and_bytes():
    ledger, toy = _ledger()
    rows = {row.module: row for row in ledger.rows}
    connector, up, tower = rows["connector"], rows["decoder/layers/up"], rows["tower/patch_embed"]
    assert connector.parameters == WIDTH * WIDTH + WIDTH
    assert (connector.dtype, connector.trainable, connector.learning_rate) == ("float32", True, 0.5)
    assert up.sharding == "-, fsdp+context, tensor" and up.learning_rate == 1e-2
    assert up.bytes_per_device == LAYERS * WIDTH * HIDDEN * 4 // 8
    assert (tower.dtype, tower.trainable, tower.learning_rate) == ("bfloat16", False, 0.0)
    assert tower.bytes_per_device == 12 * WIDTH * 2 // 4

    state = toy.state()
    real = [
        shard.data.nbytes
        for leaf in jax.tree.leaves((state.trainable, state.frozen))
        for shard in leaf.addressable_shards[:1]
    ]
    moments = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.opt_state)]
    assert ledger.parameter_bytes_per_device == sum(real)
    assert ledger.optimizer_bytes_per_device == sum(moments)
    assert ledger.parameters - ledger.trainable_parameters == 12 * WIDTH + 2 * WORDS * WIDTH


def test_ledger_prints_and_is_json():
    ledger, _ = _ledger((1, 1))
    text = io.StringIO()
    print_ledger(ledger, Console(file=text, width=150))
    assert "decoder/lm_head" in text.getvalue() and "frozen" in text.getvalue()
    assert f"{ledger.trainable_parameters:,} trainable" in text.getvalue()
    stored = json.loads(json.dumps(ledger_json(ledger)))
    assert sum(row["parameters"] for row in stored["rows"]) == stored["parameters"] == ledger.parameters
