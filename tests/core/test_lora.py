from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.checkpoint.weights import load_weights, save_weights
from biomedgpt_jax.core.lora import BaseWeights, Lora, cast_for_compute, is_adapter, merge_lora
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.partition import leaf_paths, map_with_path, merge, split
from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shardings
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama import ALL_LINEARS, Llama, add_lora

CONFIG = PRESETS["tiny"]
FLOAT = Lora(rank=4, alpha=12.0, targets=ALL_LINEARS, base=BaseWeights.FLOAT, tile=None)
INT8 = replace(FLOAT, base=BaseWeights.INT8)
NF4 = replace(FLOAT, base=BaseWeights.NF4, tile=8)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 12)))
ONES, PLACES = jnp.ones((2, 12), int), jnp.tile(jnp.arange(12), (2, 1))


def decoder(lora: Lora | None) -> Functional[Llama]:
    return Functional(lambda rngs: Llama(CONFIG, lora=lora, rngs=rngs))


@cache
def plain() -> dict:
    return jax.jit(decoder(None).init)(jax.random.key(0))


@cache
def adapted(lora: Lora, b_scale: float = 0.0) -> dict:
    """The plain weights with adapters, whose second factor is made random."""
    params = jax.jit(lambda params: add_lora(CONFIG, lora, params, jax.random.key(1)))(plain())
    key = jax.random.key(2)
    return map_with_path(
        lambda path, leaf: b_scale * jax.random.normal(key, leaf.shape) if path.endswith("lora_b") else leaf, params
    )


@cache
def compiled(lora: Lora | None, dtype=jnp.float32):
    def logits(params):
        model = decoder(lora).bind(cast_for_compute(params, dtype))
        hidden = model(model.embed_tokens(TOKENS, dtype), ONES, PLACES, remat=Remat.FULL)
        assert hidden.dtype == dtype
        return model.unembed(hidden)

    return jax.jit(logits)


def difference(a: jax.Array, b: jax.Array) -> float:
    return float(jnp.abs(a - b).max() / jnp.abs(b).max())


def test_the_model_starts_as_it_was():
    np.testing.assert_array_equal(compiled(FLOAT)(adapted(FLOAT)), compiled(None)(plain()))


@pytest.mark.parametrize(("lora", "stored", "error"), [(INT8, jnp.int8, 0.02), (NF4, jnp.int4, 0.2)])
def test_quantised_kernels_round_and_nothing_else(lora, stored, error):
    params = adapted(lora)
    assert params["layers"]["mlp"]["down"]["kernel"]["array"]["qvalue"].dtype == stored
    assert 1e-4 < difference(compiled(lora)(params), compiled(None)(plain())) < error


@pytest.mark.parametrize("lora", [FLOAT, INT8, NF4], ids=["float", "int8", "nf4"])
def test_merged_weights_compute_the_same(lora):
    params = adapted(lora, 0.05)
    merged = merge_lora(params, lora)
    assert leaf_paths(merged).keys() == leaf_paths(plain()).keys()
    ours = compiled(lora)(params)
    assert difference(ours, compiled(lora)(adapted(lora))) > 1e-2  # the adapters do something
    assert difference(compiled(None)(merged), ours) < 1e-5


def test_four_bits_survive_the_disk(tmp_path):
    kernel = adapted(NF4)["layers"]["mlp"]["up"]["kernel"]
    save_weights(tmp_path / "weights", {"kernel": kernel}, {})
    expected = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), {"kernel": kernel}
    )
    loaded = load_weights(tmp_path / "weights", expected)
    assert len(np.unique(np.asarray(loaded["kernel"]["array"]["qvalue"]).astype(int))) == 16
    for path, leaf in leaf_paths(loaded["kernel"]).items():
        np.testing.assert_array_equal(leaf, leaf_paths(kernel)[path])


def test_adding_adapters_gives_the_tree_that_the_model_expects():
    for lora in (FLOAT, INT8, NF4):
        expected = leaf_paths(jax.eval_shape(decoder(lora).init, jax.random.key(0)))
        found = leaf_paths(adapted(lora))
        assert {path: (leaf.shape, leaf.dtype) for path, leaf in found.items()} == {
            path: (leaf.shape, leaf.dtype) for path, leaf in expected.items()
        }


@pytest.mark.parametrize("lora", [FLOAT, NF4], ids=["float", "nf4"])
def test_adapters_get_gradients_in_bfloat16_and_the_base_none(lora):
    tuned, frozen = split(adapted(lora, 0.05), is_adapter)
    assert len(leaf_paths(tuned)) == 14
    gradients = jax.grad(lambda tuned: compiled(lora, jnp.bfloat16)(merge(tuned, frozen)).std())(tuned)
    for path, gradient in leaf_paths(gradients).items():
        assert gradient.dtype == jnp.float32
        assert float(jnp.abs(gradient).max()) > 0, path


def test_cached_decoding_goes_through_the_adapters():
    params, lora = adapted(FLOAT, 0.05), FLOAT

    @jax.jit
    def last_logits(params):
        model = decoder(lora).bind(params)
        cut = TOKENS[:, :11]
        _, cache_ = model.prefill(model.embed_tokens(cut, jnp.float32), ONES[:, :11], PLACES[:, :11], 12)
        return model.decode_step()(model.embed_tokens(TOKENS[:, 11:], jnp.float32), cache_)[0]

    assert difference(last_logits(params), compiled(lora)(params)[:, -1]) < 1e-5


def test_the_rank_has_an_axis_of_its_own_and_the_other_one_shards_over_all_devices():
    axes = leaf_paths(decoder(NF4).axes())
    assert axes["layers/attention/out/kernel_lora_a"] == ("layers", "lora_width", "lora_rank")
    assert axes["layers/mlp/up/kernel_lora_b"] == ("layers", "lora_rank", "lora_width")
    assert axes["layers/attention/out/kernel_lora_b"] == ("layers", "lora_rank", "embed")
    params = adapted(NF4, 0.05)
    mesh = make_mesh(MeshShape(1, 2, 4, 1))
    placed = jax.device_put(params, shardings(mesh, decoder(NF4).axes(), params))
    with jax.set_mesh(mesh):
        assert difference(compiled(NF4)(placed), compiled(NF4)(params)) < 1e-5


def test_llama_3_8b_with_rank_128_has_the_official_number_of_adapter_weights():
    lora = replace(NF4, rank=128, alpha=256.0, tile=64)
    config = PRESETS["llama-3-8b"]
    shapes = jax.eval_shape(Functional(lambda rngs: Llama(config, lora=lora, rngs=rngs)).init, jax.random.key(0))
    adapters = {path: leaf for path, leaf in leaf_paths(shapes).items() if is_adapter(path)}
    assert sum(leaf.size for leaf in adapters.values()) == 335_544_320
    assert not any("head" in path or "embed" in path for path in adapters)


def test_targets_that_match_nothing_are_refused():
    with pytest.raises(ValueError, match="'attention/query' match no linear"):
        jax.eval_shape(decoder(replace(FLOAT, targets="attention/query")).init, jax.random.key(0))
