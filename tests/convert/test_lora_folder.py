"""Folders of LoRA factors, as the official code and as PEFT writes them, come in merged; what does not fit is named."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers

from biomedgpt_jax.checkpoint.weights import weights_table
from biomedgpt_jax.convert.export_llama3med import llama3med_rules
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.mapping import export_tensors
from biomedgpt_jax.convert.tensors import write_safetensors
from biomedgpt_jax.models.vit import Features
from tests.command import assert_refused, biomedgpt
from tests.convert.test_official import CLIP, TEXT, VISION, official, random_leaves, whole, write

RANK, ALPHA = 2, 3  # so that whole numbers stay exact
ADAPTED = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
PREFIXES = {
    "language_model": "language_model.",
    "vision_tower": "vision_tower._vision_tower.",
    "connector": "connector.",
}
FACTOR = "base_model.model.language_model.model.layers.1.self_attn.q_proj.lora_{}.weight"


def adapter_config(**changes):
    """As PEFT 0.12 writes it for the official code, which lists every module."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "loftq_config": {},
        "lora_alpha": ALPHA,
        "lora_dropout": 0.05,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "rank_pattern": {},
        "target_modules": [f"language_model.model.layers.{n}.{name}" for n in range(2) for name in ADAPTED],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **changes,
    }


def write_factors(folder, factors, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(**changes)))
    write_safetensors(folder, factors.items())
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def trained():
    """Tensors of the whole model below by the names of the official code, the factors by PEFT's, the merged tensors."""
    rng = np.random.default_rng(0)
    model = whole(CLIP, Features(-2, final_norm=False, keep_prefix=False))
    below = {
        key: np.round(8 * value)
        for key, value in export_tensors(random_leaves(model), llama3med_rules(model), where="")
    }
    factors, merged = {}, dict(below)
    for layer in range(2):
        for name in ADAPTED:
            module = f"language_model.model.layers.{layer}.{name}"
            out, inner = below[f"{module}.weight"].shape
            a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((RANK, inner), (out, RANK)))
            factors |= {f"base_model.model.{module}.lora_{side}.weight": x for side, x in (("A", a), ("B", b))}
            merged[f"{module}.weight"] = below[f"{module}.weight"] + ALPHA / RANK * np.einsum("or,ri->oi", b, a)
    return below, factors, merged


def write_official(folder, below, factors, **changes):
    """What the official code saves after training with LoRA."""
    write(folder, official("tinyllava", vision_config={**VISION, "num_hidden_layers": 3}))
    write_factors(folder, factors, **changes)
    for part, prefix in PREFIXES.items():
        inside = {key.removeprefix(prefix): value for key, value in below.items() if key.startswith(prefix)}
        if part == "language_model":
            inside = {_wrapped(key): value for key, value in inside.items()}
        (folder / part).mkdir()
        torch.save({k: torch.from_numpy(v.copy()) for k, v in inside.items()}, folder / part / "pytorch_model.bin")
    return folder


def _wrapped(key):
    """PEFT keeps an adapted layer one level deeper."""
    return key.replace(".weight", ".base_layer.weight") if any(f".{name}." in key for name in ADAPTED) else key


def imported(out, *arguments):
    called = biomedgpt("import", *arguments, f"--out={out}")
    assert called.code == 0, called
    return called, weights_table(out)


def remove(folder, *parts):
    for part in parts:
        (folder / part / "pytorch_model.bin").unlink()
        (folder / part).rmdir()


@pytest.mark.parametrize("below_is", ["beside", "decoder elsewhere", "whole elsewhere"])
def test_folder_of_the_official_code_comes_in_merged(trained, tmp_path, below_is):
    below, factors, merged = trained
    folder = write_official(tmp_path / "lora", below, factors)
    (folder / "tokenizer.json").write_text("{}")
    bases = {"beside": (), "decoder elsewhere": (f"--base={tmp_path / 'base'}",)}
    if below_is == "decoder elsewhere":
        remove(folder, "language_model")
        prefix = PREFIXES["language_model"]
        write(tmp_path / "base", TEXT)
        inside = {key.removeprefix(prefix): value for key, value in below.items() if key.startswith(prefix)}
        write_safetensors(tmp_path / "base", inside.items())
    if below_is == "whole elsewhere":
        remove(folder, "vision_tower", "language_model")
        write(tmp_path / "base", official("tinyllava", vision_config={**VISION, "num_hidden_layers": 3}))
        other = {key: value + 1 if key.startswith("connector") else value for key, value in below.items()}
        write_safetensors(tmp_path / "base", other.items())  # its connector is not the trained one
    called, table = imported(tmp_path / "out", f"--from={folder}", *bases.get(below_is, bases["decoder elsewhere"]))
    assert "tinyllava (model) from" in called.out and "its adapters merged, is in" in called.out
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    plain = write(tmp_path / "plain", official("tinyllava", vision_config={**VISION, "num_hidden_layers": 3}))
    write_safetensors(plain, merged.items())
    _, expected = imported(tmp_path / "expected", f"--from={plain}")
    assert table["leaves"] == expected["leaves"] and table["meta"]["config"] == expected["meta"]["config"]
    sources = table["meta"]["source"]
    assert "adapter_model.safetensors" in sources and "connector/pytorch_model.bin" in sources
    assert ("base: model.safetensors" in sources) == (below_is != "beside")
    assert all(len(digest) == 64 for digest in sources.values())


def test_factors_that_peft_wrote_for_a_decoder(tmp_path):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{k: v for k, v in TEXT.items() if k in SIZES}))
    model.save_pretrained(tmp_path / "base")
    wanted = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], use_rslora=True)
    adapted = peft.get_peft_model(model, wanted)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted.save_pretrained(tmp_path / "lora")
    (tmp_path / "lora" / "README.md").unlink()
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    found = dict(import_folder(tmp_path / "lora", tmp_path / "base").leaves)
    for path, leaf in import_folder(tmp_path / "merged").leaves:
        np.testing.assert_allclose(found[path], leaf, atol=1e-6, err_msg=path)
    moved = dict(import_folder(tmp_path / "base").leaves)
    assert np.abs(found["layers/mlp/up/kernel"] - moved["layers/mlp/up/kernel"]).max() > 0.1


SIZES = {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
}
BROKEN = {
    "no base": (lambda f: remove(f, *PREFIXES), {}, ("holds adapters alone", '= ""', "--base=FOLDER")),
    "part missing": (lambda f: remove(f, "vision_tower"), {}, ("vision_tower/ is not there", "--base=FOLDER")),
    "no factors": (lambda f: (f / "adapter_model.safetensors").unlink(), {}, ("expected adapter_model.safetensors",)),
    "DoRA": (None, {"use_dora": True}, ("attributes we do not know: use_dora = True",)),
    "ranks differ": (None, {"rank_pattern": {"q_proj": 4}}, ("rank_pattern = {'q_proj': 4}",)),
    "bias": (None, {"bias": "all"}, ("bias is 'all', expected 'none'",)),
    "rank": (None, {"r": 3}, ("factors do not fit the model below or r = 3", "((3, 32), (32, 3))")),
    "half": ("B", {}, ("without the other factor: " + FACTOR.format("A"),)),
    "of nothing": ("x", {}, ("not a factor of any of its tensors: " + FACTOR.format("A").replace("q_", "x_"),)),
    "no connector tensor": (
        lambda f: torch.save({"_connector.0.bias": torch.zeros(32)}, f / "connector" / "pytorch_model.bin"),
        {},
        ("missing: connector._connector.0.weight",),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_named(trained, tmp_path, name):
    (spoil, changes, texts), (below, factors, _) = BROKEN[name], trained
    if spoil == "B":
        factors = {key: value for key, value in factors.items() if key != FACTOR.format("B")}
    if spoil == "x":
        renamed = {FACTOR.format(side): FACTOR.format(side).replace("q_", "x_") for side in "AB"}
        factors = {renamed.get(key, key): value for key, value in factors.items()}
    folder = write_official(tmp_path / "lora", below, factors, **changes)
    if callable(spoil):
        spoil(folder)
    assert_refused(biomedgpt("import", f"--from={folder}", f"--out={tmp_path / 'out'}"), 1, *texts)
    assert not (tmp_path / "out").exists()


def test_a_base_that_cannot_be_one(trained, tmp_path):
    below, factors, _ = trained
    folder = write_official(tmp_path / "lora", below, factors)
    out = f"--out={tmp_path / 'out'}"
    called = biomedgpt("import", f"--from={folder}", f"--base={folder}", out)
    assert_refused(called, 2, "holds adapters too; expected a model")
    (folder / "adapter_config.json").unlink()
    called = biomedgpt("import", f"--from={folder}", f"--base={folder}", out)
    assert_refused(called, 2, "--base is for folders of LoRA adapters", "has no adapter_config.json")
