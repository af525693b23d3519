import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.models import llama
from biomedgpt_jax.models.decoders import PRESETS, decoder_preset
from tests.models.references import CONFIGS, abstract_decoder, close, decoder_reference

PUBLISHED = {  # parameters, as the safetensors metadata of each model's page on the Hugging Face hub counts them
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
}


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (2, 600))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers_at_600_positions(name, tokens):
    reference = decoder_reference(name)
    with torch.no_grad():
        theirs = reference.model(torch.tensor(tokens)).logits
    ours = reference.logits(tokens)
    close(ours, theirs)
    close(ours[:, 500:], theirs[:, 500:])


def test_a_pack_computes_what_separate_rows_compute(tokens):
    reference = decoder_reference("llama3")
    first, second = tokens[:1, :24], tokens[1:, :17]
    pack = np.concatenate([first, second, np.zeros((1, 7), int)], axis=1)
    segment_ids = np.array([[1] * 24 + [2] * 17 + [0] * 7])
    positions = np.array([[*range(24), *range(17), *[0] * 7]])
    packed = reference.logits(pack, segment_ids, positions)
    separate = reference.logits(tokens[:, :24])
    close(packed[:, :24], separate[:1])
    close(packed[:, 24:41], separate[1:, :17])
    assert np.isfinite(packed).all()


@pytest.mark.parametrize(
    ("name", "backend"), [("llama3", "cpu"), ("llama3", "tpu"), ("tied", "cpu"), ("qwen2", "cpu"), ("gemma", "cpu")]
)
def test_cached_logits_equal_uncached_ones(name, backend, tokens, monkeypatch):
    """Two prompts of different lengths in one batch, then single tokens; layers apart (cpu) or in a loop."""
    monkeypatch.setattr(llama, "target_platform", lambda: backend)
    reference = decoder_reference(name)
    lengths, steps = np.array([9, 5]), 6
    segment_ids = (np.arange(12) < lengths[:, None]).astype(int)
    prompt, positions = tokens[:, :12] * segment_ids, np.arange(12) * segment_ids

    @jax.jit
    def prefill(params):
        model = reference.bind(params)
        x = model.embed_tokens(jnp.asarray(prompt), jnp.float32)
        return model.prefill(x, jnp.asarray(segment_ids), jnp.asarray(positions), 20)

    @jax.jit
    def decode(params, new, cache):
        model = reference.bind(params)
        return model.decode_step()(model.embed_tokens(new[:, None], jnp.float32), cache)

    last, cache = prefill(reference.params)
    seen = [last]
    for step in range(steps):
        new = tokens[np.arange(2), lengths + step]
        last, cache = decode(reference.params, jnp.asarray(new), cache)
        seen.append(last)
    assert cache.lengths.tolist() == (lengths + steps).tolist()
    whole = reference.logits(tokens[:, :24])
    for row, length in enumerate(lengths):
        close(jnp.stack([step[row] for step in seen]), whole[row, length - 1 : length + steps])


def test_a_prompt_longer_than_the_cache_is_refused(tokens):
    model = decoder_reference("llama3").bind()
    ones = jnp.ones((2, 12), int)
    with pytest.raises(ValueError, match="12 tokens do not fit a cache of 11"):
        model.prefill(model.embed_tokens(jnp.asarray(tokens[:, :12]), jnp.float32), ones, ones, 11)


def test_remat_policies_give_the_same_gradients_and_compute_more_the_less_they_keep(tokens):
    reference = decoder_reference("llama3")
    reads = jnp.asarray(tokens[:, :24])

    def gradient(remat):
        return jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(reference.logits(reads, params=params, remat=remat)))))

    plain = leaf_paths(gradient(Remat.NONE)(reference.params))
    for remat in (Remat.MINIMAL, Remat.OFFLOAD):
        for path, leaf in leaf_paths(gradient(remat)(reference.params)).items():
            close(leaf, np.asarray(plain[path]))
    programs = {remat: str(gradient(remat).trace(reference.params).jaxpr) for remat in Remat}
    # With 24 tokens attention is one block, whose softmax takes one exponential: forward, again, and backward.
    exponentials = {remat: program.count(" exp ") for remat, program in programs.items()}
    products = {remat: program.count(" dot_general[") for remat, program in programs.items()}
    assert products[Remat.NONE] == products[Remat.MINIMAL] < products[Remat.DOTS] < products[Remat.FULL]
    assert exponentials[Remat.MINIMAL] == exponentials[Remat.NONE] == exponentials[Remat.DOTS] - 1, exponentials
    assert products[Remat.FULL] - products[Remat.OFFLOAD] == 3 + 2  # projections and attention
    assert [remat for remat in Remat if "Host" in programs[remat]] == [Remat.OFFLOAD]


def test_bfloat16_changes_only_the_rounding(tokens):
    reference, short = decoder_reference("llama3"), tokens[:, :24]
    exact = np.asarray(reference.logits(short))
    rounded = reference.logits(short, dtype=jnp.bfloat16, remat=Remat.DOTS)
    assert rounded.dtype == jnp.float32
    assert 1e-4 < np.abs(rounded - exact).max() / np.abs(exact).max() < 0.1


def test_frozen_bfloat16_weights_serve_float32_activations(tokens):
    reference = decoder_reference("llama3")
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), reference.params)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), halved)
    short = tokens[:, :24]
    close(reference.logits(short, params=halved), reference.logits(short, params=widened))


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(name):
    shapes = jax.tree.leaves(abstract_decoder(decoder_preset(name)))
    assert sum(leaf.size for leaf in shapes) == PUBLISHED[name]


def test_every_published_preset_is_counted():
    assert set(PRESETS) - set(PUBLISHED) == {"smoke", "tiny"}


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(UsageError, match=r"llama-9.*llama-3\.1-8b"):
        decoder_preset("llama-9")
