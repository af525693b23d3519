"""The certificate passes for true exports and fails for every kind of difference."""

import importlib
import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.convert.parity import CERTIFICATE, Ours, Prompt, verify, write_certificate
from biomedgpt_jax.convert.reimport import reimport
from biomedgpt_jax.convert.tensors import SafetensorsFolder, write_safetensors
from biomedgpt_jax.convert.torch_model import exported_model
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.module import Functional
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.models.connector import make_connector
from biomedgpt_jax.models.vision import make_encoder
from tests.convert.exported import TOWERS, export_text, exported, read_json, tiny, tokenizer

MODELS = {"llava": (28,), "scales": (28, 56)}


@cache
def model(name):
    return tiny(TOWERS["clip"], scales=MODELS[name])


@partial(jax.jit, static_argnums=0)
def vision(config, params, images):
    """Features of the tower and vectors of the connector."""
    features = make_encoder(config.vision, compute_dtype=jnp.float32)(params["tower"], images)
    connector = Functional(lambda rngs: make_connector(config.connector, rngs=rngs)).bind(params["connector"])
    return features, connector(features)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return export_text(folder, tokenizer(folder))


@pytest.fixture(params=MODELS)
def case(request, tmp_path, text):
    """Folder, model, prompts with an image each, and what we compute of them."""
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

    def stages(prompt):
        features, vectors = vision(ours.config, ours.params, jnp.asarray(prompt.images))
        logits = ours.logits(prompt.tokens[None], prompt.images[None], text.image_id)[0]
        return {"tower": np.asarray(features), "connector": np.asarray(vectors), "logits": logits}

    def answer(prompt, limit):
        batch = ours.batch(prompt.tokens[None], prompt.images[None], text.image_id)
        out = greedy(ours.fns, ours.params, batch, max_new_tokens=limit, stop_ids=text.stop_ids, cache_length=96)
        return out.tokens[0, : out.lengths[0]].tolist()

    return folder, ours, prompts, Ours(stages, answer)


def test_a_true_export_passes_and_says_so_in_the_folder(case):
    folder, ours, prompts, computed = case
    parity = verify(folder, prompts, computed, new_tokens=12)
    assert parity.passed
    assert parity.max_rel < 1e-5
    assert (parity.argmax_agreement, parity.greedy_equal) == (1.0, True)
    assert [stage.name for stage in parity.stages] == ["tower", "connector", "logits"]
    assert all(0 < stage.max_rel < 1e-5 for stage in parity.stages)
    assert len({prompt.answer_sha256 for prompt in parity.prompts}) == 2  # the answers depend on the prompt
    same = reimport(folder, ours.leaves, ours.config)
    assert same.passed
    assert write_certificate(folder, same, parity, dtype="float32")
    written = read_json(folder / CERTIFICATE)
    assert written["passed"] is True
    assert [prompt["id"] for prompt in written["transformers"]["prompts"]] == ["q0", "q1"]
    assert written["transformers"]["max_abs"] == parity.max_abs > 0
    assert set(written["transformers"]["versions"]) == {"torch", "transformers", "jax"}


def test_other_values_of_any_stage_fail(case):
    folder, _, prompts, ours = case
    told = ours.stages(prompts[0])
    for stage in told:
        for factor in (np.float32(1.001), np.float32(np.nan)):
            altered = Ours(lambda _, stage=stage, factor=factor: {**told, stage: told[stage] * factor}, ours.greedy)
            assert not verify(folder, prompts[:1], altered, new_tokens=3).passed, (stage, factor)


def test_another_answer_fails(case):
    folder, _, prompts, ours = case
    assert not verify(folder, prompts, Ours(ours.stages, lambda *_: [11, 12]), new_tokens=3).passed


def change(folder, key, edit):
    tensors = dict(SafetensorsFolder(folder))
    tensors[key] = edit(tensors[key])
    write_safetensors(folder, tensors.items())


def test_a_changed_bit_is_found_by_both_checks(case):
    folder, ours, prompts, computed = case
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    change(folder, name, lambda array: array * np.float32(1.01))
    assert reimport(folder, ours.leaves, ours.config).unequal == ("decoder/layers/mlp/up/kernel",)
    parity = verify(folder, prompts, computed, new_tokens=3)
    assert [stage.max_rel < 1e-5 for stage in parity.stages] == [True, True, False]
    assert not parity.passed


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
        reimport(folder, ours.leaves, ours.config)


def test_without_transformers_the_message_says_what_to_install(case, monkeypatch):
    folder, _, prompts, computed = case
    found = importlib.import_module

    def without(name, *rest):
        if name == "transformers":
            raise ImportError("No module named 'transformers'")
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(RunError, match=r"biomedgpt-jax\[hf\]"):
        verify(folder, prompts, computed, new_tokens=3)
