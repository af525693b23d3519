"""The certificate passes for true exports and fails for every kind of difference."""

import importlib
import json
from functools import cache

import numpy as np
import pytest

from biomedgpt_jax.convert.parity import CERTIFICATE, Prompt, exported_model, reimport, verify, write_certificate
from biomedgpt_jax.convert.tensors import SafetensorsFolder, write_safetensors
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval.decode import greedy
from tests.convert.exported import TOWERS, export_text, exported, read_json, tiny, tokenizer

MODELS = {"llava": (28,), "scales": (28, 56)}


@cache
def model(name):
    return tiny(TOWERS["clip"], scales=MODELS[name])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return export_text(folder, tokenizer(folder))


@pytest.fixture(params=MODELS)
def case(request, tmp_path, text):
    """Folder, model, prompts with one image and without, and our two functions."""
    ours = model(request.param)
    folder = exported(tmp_path / "out", ours, text).folder
    rng = np.random.default_rng(0)
    size, count = ours.config.image_size, ours.config.tokens_per_image
    # Of one length, so that one compilation serves all.
    words = [rng.integers(10, 330, 30) for _ in range(2)]
    images = rng.integers(0, 256, (2, 1, size, size, 3), dtype=np.uint8)
    prompts = [
        Prompt(f"q{n}", np.concatenate([[1], [text.image_id] * count, words[n]]).astype(np.int32), images[n])
        for n in range(2)
    ]

    def logits(prompt):
        return ours.logits(prompt.tokens[None], prompt.images[None], text.image_id)[0]

    def answer(prompt, limit):
        batch = ours.batch(prompt.tokens[None], prompt.images[None], text.image_id)
        out = greedy(ours.fns, ours.params, batch, max_new_tokens=limit, stop_ids=text.stop_ids, cache_length=96)
        return out.tokens[0, : out.lengths[0]].tolist()

    return folder, ours, prompts, logits, answer


def test_a_true_export_passes_and_says_so_in_the_folder(case):
    folder, ours, prompts, logits, answer = case
    parity = verify(folder, prompts, logits, answer, new_tokens=12)
    assert parity.passed
    assert parity.max_rel < 1e-5
    assert (parity.argmax_agreement, parity.greedy_equal) == (1.0, True)
    assert len({tuple(answer(prompt, 12)) for prompt in prompts}) == 2  # the answers depend on the prompt
    same = reimport(folder, ours.params, ours.config)
    assert same.passed
    write_certificate(folder, same, parity)
    written = read_json(folder / CERTIFICATE)
    assert written["passed"] is True
    assert [prompt["id"] for prompt in written["transformers"]["prompts"]] == ["q0", "q1"]
    assert written["transformers"]["max_abs"] == parity.max_abs > 0
    assert set(written["transformers"]["versions"]) == {"torch", "transformers"}


def test_another_answer_other_logits_and_nan_fail(case):
    folder, _, prompts, logits, answer = case
    assert not verify(folder, prompts, logits, lambda *_: [11, 12], new_tokens=3).passed
    assert not verify(folder, prompts, lambda prompt: logits(prompt) * 1.001, answer, new_tokens=3).passed
    broken = verify(folder, prompts, lambda prompt: logits(prompt) * np.nan, answer, new_tokens=3)
    assert not broken.passed


def change(folder, key, edit):
    tensors = dict(SafetensorsFolder(folder))
    tensors[key] = edit(tensors[key])
    write_safetensors(folder, tensors.items())


def test_a_changed_bit_is_found_by_both_checks(case):
    folder, ours, prompts, logits, answer = case
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    change(folder, name, lambda array: array * np.float32(1.01))
    assert reimport(folder, ours.params, ours.config).unequal == ("decoder/layers/mlp/up/kernel",)
    assert not verify(folder, prompts, logits, answer, new_tokens=3).passed


def test_a_tensor_too_many_or_too_few_does_not_load(case):
    folder, *_ = case
    tensors = dict(SafetensorsFolder(folder))
    removed = tensors.pop("language_model.model.norm.weight")
    write_safetensors(folder, tensors.items())
    with pytest.raises(RunError, match=r"without remainder.*norm.weight"), exported_model(folder):
        pass
    write_safetensors(folder, {**tensors, "language_model.model.norm.weight": removed, "extra": removed}.items())
    with pytest.raises(RunError, match=r"without remainder.*extra"), exported_model(folder):
        pass


def test_another_configuration_is_named(case):
    folder, ours, *_ = case
    config = read_json(folder / "config.json")
    config["vision_feature_layer"] = -1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"model.vision.features.layer: found -1, expected -2"):
        reimport(folder, ours.params, ours.config)


def test_without_transformers_the_message_says_what_to_install(case, monkeypatch):
    folder, _, prompts, logits, answer = case
    found = importlib.import_module

    def without(name, *rest):
        if name == "transformers":
            raise ImportError("No module named 'transformers'")
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(RunError, match=r"biomedgpt-jax\[hf\]"):
        verify(folder, prompts, logits, answer, new_tokens=3)
