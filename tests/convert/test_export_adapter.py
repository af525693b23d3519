"""A PEFT adapter over its exported base gives our logits; the factors and the base come back bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from biomedgpt_jax.convert.export import Form, export_adapter_of, export_model
from biomedgpt_jax.convert.export_adapter import BASE, CONFIG, WEIGHTS
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.leaves import in_memory
from biomedgpt_jax.convert.reimport import reimport, reimport_adapter
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.torch_model import exported_model
from biomedgpt_jax.core.lora import BaseWeights, Lora, is_adapter, merge_lora, without_lora
from biomedgpt_jax.core.partition import map_with_path, split
from biomedgpt_jax.models.llama import ALL_LINEARS
from biomedgpt_jax.models.llama3_med import NO_REMAT, add_lora, make_llama3_med
from tests.convert.exported import CARD, TOWERS, Tiny, export_text, read_json, tiny, tokenizer

# alpha / rank is neither 1 nor a power of two, and some projections have no adapter.
CASES = {
    "llava": ((28,), Lora(rank=4, alpha=24.0, targets=ALL_LINEARS, base=BaseWeights.FLOAT, tile=None)),
    "llama3med": ((28, 56), Lora(rank=3, alpha=5.0, targets="attention/(q|v)", base=BaseWeights.NF4, tile=8)),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return export_text(folder, tokenizer(folder))


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory, text):
    """Folder of the adapter, folder of the merged model, our adapted model."""
    scales, lora = CASES[request.param]
    plain, folder = tiny(TOWERS["clip"], scales=scales), tmp_path_factory.mktemp("adapter")
    rng = np.random.default_rng(1)

    def filled(path, leaf):
        """B is zero at first; a trained one is not."""
        return jnp.asarray(rng.standard_normal(leaf.shape) * 0.3, leaf.dtype) if is_adapter(path) else leaf

    params = map_with_path(filled, jax.jit(lambda p: add_lora(plain.config, lora, p, jax.random.key(0)))(plain.params))
    fns = make_llama3_med(plain.config, compute_dtype=jnp.float32, remat=NO_REMAT, lora=lora)
    factors, _ = split(params, is_adapter)
    base = in_memory(without_lora(params, lora))
    export_adapter_of(folder / "peft", in_memory(factors), lora, base, plain.config, text, "pad", CARD)
    merged = in_memory(merge_lora(params, lora))
    export_model(folder / "merged", merged, plain.config, text, "pad", CARD)
    return folder, Tiny(plain.config, params, fns), in_memory(factors), base, lora


def logits(folder, model, text):
    """Theirs and ours of one row with an image."""
    rng = np.random.default_rng(0)
    size, count = model.config.image_size, model.config.tokens_per_image
    tokens = np.asarray([[text.bos_id, *[text.image_id] * count, *rng.integers(10, 330, 20)]])
    image = rng.integers(0, 256, (1, 1, size, size, 3), dtype=np.uint8)
    tower = model.config.vision.tower
    scaled = (image[0] / np.float32(255) - np.asarray(tower.mean, np.float32)) / np.asarray(tower.std, np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32))
    with exported_model(folder) as loaded, torch.no_grad():
        theirs = loaded(input_ids=torch.from_numpy(tokens), pixel_values=pixels).logits.numpy()
    return theirs, model.logits(tokens, image, text.image_id)


def test_peft_gives_our_logits_and_those_of_the_merged_export(case, text):
    folder, model, *_ = case
    theirs, ours = logits(folder / "peft", model, text)
    largest = np.abs(ours).max()
    assert np.abs(theirs - ours).max() / largest < 1e-5
    merged, _ = logits(folder / "merged", model, text)
    assert np.abs(theirs - merged).max() / largest < 1e-5
    without, _ = logits(folder / "peft" / BASE, model, text)
    assert np.abs(without - ours).max() / largest > 0.05  # the adapter matters


def test_adapter_and_base_come_back_bit_equal(case):
    folder, model, factors, base, _ = case
    back = reimport_adapter(folder / "peft", folder / "peft" / BASE, factors, model.config)
    assert (back.passed, back.leaves) == (True, len(factors))
    assert reimport(folder / "peft" / BASE, base, model.config).passed
    changed = in_memory({"decoder": {}} | {path: factors[path] * 2 for path in factors})
    assert not reimport_adapter(folder / "peft", folder / "peft" / BASE, changed, model.config).passed


def test_the_configuration_is_pefts(case):
    folder, model, _, _, lora = case
    config = read_json(folder / "peft" / CONFIG)
    assert (config["peft_type"], config["task_type"], config["bias"]) == ("LORA", "CAUSAL_LM", "none")
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (lora.rank, lora.alpha, "base")
    assert set(model.params["connector"]["linears"]) == {"0", "1"}
    base = SafetensorsFolder(folder / "peft" / BASE)
    trained = np.asarray(model.params["connector"]["linears"]["0"]["kernel"])
    (name,) = [key for key in base if key.endswith(("linear_1.weight", "_connector.0.weight"))]
    np.testing.assert_array_equal(base[name].T, trained)
    assert (folder / "peft" / WEIGHTS).is_file()
    form = Form.LLAVA if len(model.config.vision.s2.scales) == 1 else Form.LLAMA3MED
    assert ("trust_remote_code" in (folder / "peft" / "README.md").read_text()) == (form is Form.LLAMA3MED)


def test_the_folder_is_imported_with_its_adapter_merged(case):
    folder, _, factors, _, _ = case
    imported = import_folder(folder / "peft")
    assert imported.texts == folder / "peft" / BASE and imported.tokenizer_files
    found, merged = (dict(each.leaves) for each in (imported, import_folder(folder / "merged")))
    below = dict(import_folder(folder / "peft" / BASE).leaves)
    for path, leaf in merged.items():
        np.testing.assert_allclose(found[path], leaf, atol=2e-6, err_msg=path)
        assert np.array_equal(found[path], below[path]) == (f"{path}_lora_a" not in factors), path
