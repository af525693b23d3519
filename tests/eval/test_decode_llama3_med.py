"""The decoding loops on a real Llama3-Med: the cached loop says what the whole model says without a cache."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from biomedgpt_jax.eval import decode
from biomedgpt_jax.eval.beam import Beams, beam_search
from biomedgpt_jax.models.connector import connector_from_name
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, make_llama3_med
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import PENULTIMATE_PATCHES, TOWERS
from biomedgpt_jax.models.vision import VisionConfig, feature_widths
from tests.eval.plain_search import plain_search

NEW = 6
PROMPTS = (21, 25)  # tokens of each row, 16 of which are image features


@pytest.fixture(scope="module")
def model_and_params():
    tower = replace(TOWERS["tiny-clip"], image_size=16, patch=4, width=32, hidden=64, depth=2)
    vision = VisionConfig(tower, None, S2Config((16,), MapSize.SMALLEST), PENULTIMATE_PATCHES)
    decoder = PRESETS["tiny"]
    connector = connector_from_name("linear", feature_widths(vision), decoder.width)
    config = Llama3MedConfig(vision, connector, decoder)
    assert config.tokens_per_image == 16
    model = make_llama3_med(config, compute_dtype=np.float32, remat=NO_REMAT, lora=None)
    rng = np.random.default_rng(0)  # drawn here: compiling the model's own initialisers takes longer than the test
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)


def prompt_batch(answers: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """One image and some words per row, then the answer so far."""
    rng = np.random.default_rng(1)
    batch = {
        "tokens": np.zeros((2, length), np.int32),
        "segment_ids": np.zeros((2, length), np.int32),
        "image_index": np.full((2, length), -1, np.int32),
        "images": rng.integers(0, 256, (2, 1, 16, 16, 3), np.uint8),
    }
    for row, known in enumerate(PROMPTS):
        words = rng.integers(1, 64, known)
        said = np.concatenate([words, answers[row]])
        batch["tokens"][row, : len(said)] = said
        batch["segment_ids"][row, : len(said)] = 1
        batch["image_index"][row, 2:18] = np.arange(16)
    batch["positions"] = (
        np.cumsum(batch["segment_ids"], 1, dtype=np.int32) * batch["segment_ids"] - batch["segment_ids"]
    )
    return batch


def uncached(model, params) -> np.ndarray:
    """The likeliest words by running everything again for each: int32 [2 NEW]."""
    full = jax.jit(lambda params, batch: model.unembed(params, model.forward(params, batch)))
    answers = np.zeros((2, 0), np.int32)
    for step in range(NEW):
        logits = np.asarray(full(params, prompt_batch(answers, 36)))
        last = [logits[row, known + step - 1].argmax() for row, known in enumerate(PROMPTS)]
        answers = np.concatenate([answers, np.array(last, np.int32)[:, None]], 1)
    return answers


def test_greedy_equals_the_model_without_a_cache(model_and_params):
    model, params = model_and_params
    expected = uncached(model, params)
    assert expected[0].tolist() != expected[1].tolist()
    stop = int(expected[0, -1])
    batch = prompt_batch(np.zeros((2, 0), np.int32), 28)
    tokens, lengths = decode.greedy(
        model, model.ready(params), batch, max_new_tokens=NEW, stop_ids=(stop,), cache_length=28 + NEW
    )
    for row in range(2):
        met = np.flatnonzero(expected[row] == stop)
        assert lengths[row] == (met[0] if len(met) else NEW)
        assert tokens[row, : lengths[row]].tolist() == expected[row, : lengths[row]].tolist()
    assert lengths.max() >= 3


# Of each row of a batch: tokens of the prompt, and at which token each of its images begins.
ROWS = ((40, (2, 20)), (21, (1,)), (7, ()), (33, (0, 17)))
FORCED = 5


def rows_batch(tokens: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """The first `lengths` of `tokens` [b s] in each row, right-padded, with two image slots of other pictures."""
    rng = np.random.default_rng(3)
    valid = (np.arange(tokens.shape[1]) < lengths[:, None]).astype(np.int32)
    batch = {
        "tokens": tokens * valid,
        "segment_ids": valid,
        "positions": np.arange(tokens.shape[1], dtype=np.int32) * valid,
        "image_index": np.full(tokens.shape, -1, np.int32),
        "images": rng.integers(0, 256, (len(ROWS), 2, 16, 16, 3), np.uint8),
    }
    for row, (_, starts) in enumerate(ROWS):
        for slot, start in enumerate(starts):
            batch["image_index"][row, start : start + 16] = np.arange(slot * 16, (slot + 1) * 16)
    return batch


def test_logits_with_a_cache_equal_those_without_at_every_step(model_and_params):
    """Grouped queries, no, one and two images, rows of other lengths; the words that follow are given, not chosen."""
    model, params = model_and_params
    assert PRESETS["tiny"].heads == 2 * PRESETS["tiny"].kv_heads
    prompts = np.array([known for known, _ in ROWS])
    tokens = np.random.default_rng(2).integers(1, 64, (len(ROWS), 48)).astype(np.int32)
    whole = rows_batch(tokens, prompts + FORCED)
    full = np.asarray(jax.jit(lambda p, b: model.unembed(p, model.forward(p, b)))(params, whole))
    rows = np.arange(len(ROWS))

    # The prompts alone, padded to a shorter row than the whole and with a longer cache.
    start = {key: value if key == "images" else value[:, :44] for key, value in rows_batch(tokens, prompts).items()}
    logits, cache = jax.jit(model.prefill, static_argnums=2)(params, start, 56)
    step = jax.jit(lambda params, tokens, cache: model.decode(params)(tokens, cache))
    for number in range(FORCED + 1):
        expected = full[rows, prompts + number - 1]
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(full).max(), rtol=0)
        logits, cache = step(params, tokens[rows, prompts + number], cache)
    # The pictures and the padding matter: other pictures give other logits.
    other = {**start, "images": 255 - start["images"]}
    changed = np.asarray(jax.jit(model.prefill, static_argnums=2)(params, other, 56)[0])
    differs = np.abs(changed - full[rows, prompts - 1]).max(-1) > 1e-2
    assert differs.tolist() == [True, True, False, True]


def test_beams_equal_a_search_without_a_cache(model_and_params):
    model, params = model_and_params
    full = jax.jit(lambda params, batch: model.unembed(params, model.forward(params, batch)))
    batch = prompt_batch(np.zeros((2, 0), np.int32), 28)
    limits = decode.Limits(NEW, (7,), 28 + NEW, 64)
    found = beam_search(model, params, batch, limits, Beams(3, 1.0, 2, 2))

    for row, known in enumerate(PROMPTS):
        prompt = batch["tokens"][row, :known].tolist()

        def logits(words: list[int], row=row, known=known) -> np.ndarray:
            answers = np.zeros((2, len(words) - known), np.int32)
            answers[row] = words[known:]
            return np.asarray(full(params, prompt_batch(answers, 36)))[row, len(words) - 1]

        options = {"end": 7, "beams": 3, "longest": NEW, "length_penalty": 1.0, "no_repeat": 2, "shortest": 2}
        plain = plain_search(logits, prompt, exist=64, **options)
        said = [words[:length].tolist() for words, length in zip(found.tokens[row], found.lengths[row], strict=True)]
        assert said == [words for words, _ in plain]
        np.testing.assert_allclose(found.scores[row], [score for _, score in plain], rtol=1e-5, atol=1e-5)
