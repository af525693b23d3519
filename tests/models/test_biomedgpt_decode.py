"""One token at a time against all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.models import biomedgpt_decoder
from tests.models.biomedgpt_rows import make, reference, rows, tiny

GIVEN, STEPS, PLACES = (4, 1, 2), 3, 9


def whole(batch, tokens):
    """Logits after each of `tokens` [b s], without a cache."""
    it = reference(CONFIG)
    model = make(CONFIG)
    batch = batch | {"tokens": tokens, "segment_ids": np.ones_like(tokens)}
    return np.asarray(
        jax.jit(lambda params, batch: model.unembed(params, model.forward(params, batch)))(it.params, batch)
    )


CONFIG = tiny(add_decoder_positions=True)
KINDS = {
    "text": lambda: rows((9, 6, 7), GIVEN),
    "codes among text, an image": lambda: (
        rows((9, 6, 7), GIVEN, image=32)
        | {"code_targets": np.array([False, True, False]), "image_mask": np.array([True, True, False])}
    ),
}


@pytest.mark.parametrize(("kind", "platform"), [("text", "tpu"), ("codes among text, an image", "cpu")])
def test_cached_logits_equal_uncached_ones_for_each_beam(kind, platform, monkeypatch):
    """Given words of different lengths, two beams per source that part and change places; layers apart or in a loop."""
    monkeypatch.setattr(biomedgpt_decoder, "target_platform", lambda: platform)
    it, model, batch = reference(CONFIG), make(CONFIG), KINDS[kind]()
    params = model.ready(it.params) if platform == "cpu" else it.params
    said = np.random.default_rng(1).integers(4, 300, (6, STEPS))
    # Before the last word the beams of source 1 change places, both beams of source 2 go on with its second.
    order = np.array([0, 1, 3, 2, 5, 5])
    last, cache = jax.jit(lambda params, batch: model.prefill(params, batch, PLACES))(params, batch)
    assert len(cache.own) == (CONFIG.decoder_layers if platform == "cpu" else 1)
    decode = jax.jit(lambda params, tokens, cache: model.decode(params)(tokens, cache))
    seen, cache = [], cache.widen(2)
    assert cache.source[0][0].shape[1] == 3 and cache.beams == 2
    for step in range(STEPS):
        if step == STEPS - 1:
            cache, before = cache.take(jnp.asarray(order)), [each[order] for each in seen]
        logits, cache = decode(params, jnp.asarray(said[:, step]), cache)
        seen.append(np.asarray(logits))
    assert cache.lengths.tolist() == [length + STEPS for length in np.repeat(GIVEN, 2)]
    heard = np.concatenate([said[order, : STEPS - 1], said[:, STEPS - 1 :]], axis=1)
    # All six as rows of their own.
    alone = {name: np.repeat(array, 2, axis=0) for name, array in batch.items()}
    tokens = np.zeros((6, max(GIVEN) + STEPS), int)
    for row, length in enumerate(np.repeat(GIVEN, 2)):
        tokens[row, :length] = alone["tokens"][row, :length]
        tokens[row, length : length + STEPS] = heard[row]
    expected = whole(alone, tokens)
    for row, length in enumerate(np.repeat(GIVEN, 2)):
        found = [np.asarray(last)[row // 2], *(step[row] for step in before), seen[-1][row]]
        np.testing.assert_allclose(found, expected[row, length - 1 : length + STEPS], rtol=0, atol=1e-5)


def test_a_rewound_cache_forgets():
    it, model, batch = reference(CONFIG), make(CONFIG), KINDS["text"]()
    decode = jax.jit(lambda params, tokens, cache: model.decode(params)(tokens, cache))
    _, cache = jax.jit(lambda params, batch: model.prefill(params, batch, PLACES))(it.params, batch)
    words = jnp.asarray([5, 6, 7])
    right, _ = decode(it.params, words, cache)
    _, ahead = decode(it.params, words + 9, cache)
    again, _ = decode(it.params, words, ahead.rewind(cache.lengths))
    np.testing.assert_array_equal(again, right)


def test_greedy_answers_are_the_likeliest_words_and_no_padding_of_the_head():
    it, model, batch = reference(CONFIG), make(CONFIG), KINDS["text"]()
    found = greedy(model, it.params, batch, max_new_tokens=STEPS, stop_ids=(2,), cache_length=PLACES)
    tokens, lengths = np.pad(batch["tokens"], ((0, 0), (0, STEPS))), np.array(GIVEN)
    for step in range(STEPS):
        likeliest = whole(batch, tokens)[np.arange(3), lengths + step - 1].argmax(-1)
        assert (likeliest < CONFIG.vocab_size).all()
        tokens[np.arange(3), lengths + step] = likeliest
    for row, length in enumerate(lengths):
        answer = tokens[row, length : length + STEPS].tolist()
        answer = answer[: answer.index(2)] if 2 in answer else answer
        assert found.tokens[row, : found.lengths[row]].tolist() == answer


def test_a_target_longer_than_the_cache_is_refused():
    it, model, batch = reference(CONFIG), make(CONFIG), KINDS["text"]()
    with pytest.raises(ValueError, match="4 tokens do not fit a cache of 3"):
        jax.eval_shape(lambda params, batch: model.prefill(params, batch, 3), it.params, batch)
