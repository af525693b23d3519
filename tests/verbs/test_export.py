"""`biomedgpt export` in all its forms: from runs and from imported weights, certified, there and back."""

import json
import shutil

import huggingface_hub
import pytest

from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.verbs.linting import read_lint, score_facts, without_ids
from tests.command import TINY, assert_refused, biomedgpt, config, contents
from tests.convert.hub_server import Hub, serve_hub


@pytest.fixture(scope="module")
def lora_run(tiny_run, prepared_data, tmp_path_factory):
    """Stage 2 on top of the tiny run: adapters on the decoder, and the connector trained beside them."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    called = biomedgpt(
        "train",
        config(f"smoke.py:stage=2,data={prepared_data}"),
        *TINY,
        f"--workdir={folder}",
        f"--config.init.run={tiny_run.folder}",
        "--config.tune.decoder=lora",
        "--config.lora.rank=3",
        "--config.lora.alpha=12.0",
        "--config.optim.learning_rate=0.05",  # so that two steps show
        "--config.eval.paths=()",
    )
    assert called.code == 0, called
    return folder


@pytest.fixture(scope="module")
def alone(tiny_run, tmp_path_factory):
    """Exports of the parts of the tiny run, by form."""
    folder = tmp_path_factory.mktemp("parts")
    calls = {}
    for form, dtype in (("decoder", "bfloat16"), ("tower", "float32")):
        calls[form] = biomedgpt(
            *("export", f"--model={tiny_run.folder}", f"--out={folder / form}"),
            *(f"--form={form}", f"--dtype={dtype}", "--verify"),
        )
    return folder, calls


def certificate(folder):
    return json.loads((folder / "parity.json").read_text())


def bits(folder):
    return {key: (str(array.dtype), array.shape, array.tobytes()) for key, array in SafetensorsFolder(folder).items()}


def test_an_adapter_with_its_base_is_the_model_of_the_run(lora_run, tmp_path):
    out = tmp_path / "adapter"
    called = biomedgpt("export", f"--model={lora_run}", f"--out={out}", "--form=adapter", "--verify")
    assert called.code == 0, called
    proof = certificate(out)
    assert proof["passed"] and proof["form"] == "adapter"
    assert [stage["name"] for stage in proof["transformers"]["stages"]] == ["tower", "connector", "logits"]
    assert proof["transformers"]["max_rel"] < 1e-4 and proof["transformers"]["greedy_equal"]
    assert "peft" in proof["transformers"]["versions"]
    settings = json.loads((out / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (3, 12)
    merged = tmp_path / "merged"
    assert biomedgpt("export", f"--model={lora_run}", f"--out={merged}", "--noverify").code == 0
    base, whole = SafetensorsFolder(out / "base"), SafetensorsFolder(merged)
    moved = {key for key in whole if whole[key].tobytes() != base[key].tobytes()}
    # Adapters changed the decoder's linear layers, and nothing else is apart: the base has the trained connector.
    assert moved and all("self_attn" in key or ".mlp." in key for key in moved)
    card = (out / "README.md").read_text()
    assert "PeftModel.from_pretrained(base, folder)" in card
    assert card.count("| tiny |") == 1  # both stages had the same data


def test_the_decoder_alone_in_bfloat16(alone):
    folder, calls = alone
    assert calls["decoder"].code == 0, calls["decoder"]
    proof = certificate(folder / "decoder")
    assert proof["passed"] and proof["dtype"] == "bfloat16"
    assert proof["transformers"]["architecture"] == "LlamaForCausalLM" and proof["transformers"]["tolerance"] == 1e-4
    assert 1e-4 < proof["rounding"]["max_rel"] < proof["rounding"]["tolerance"]
    assert {each[0] for each in bits(folder / "decoder").values()} == {"bfloat16"}


def test_the_tower_alone(alone):
    folder, calls = alone
    assert calls["tower"].code == 0, calls["tower"]
    proof = certificate(folder / "tower")
    assert proof["passed"] and proof["transformers"]["greedy_equal"] is None
    assert [stage["name"] for stage in proof["transformers"]["stages"]] == ["tower", "pooled"]
    assert json.loads((folder / "tower" / "config.json").read_text())["architectures"] == ["CLIPVisionModel"]


@pytest.mark.parametrize("part", ["decoder", "tower"])
def test_a_part_there_and_back_is_bit_equal(alone, part, tmp_path):
    folder, _ = alone
    assert biomedgpt("import", f"--from={folder / part}", f"--out={tmp_path / 'weights'}").code == 0
    again = biomedgpt("export", f"--model={tmp_path / 'weights'}", f"--out={tmp_path / 'again'}", "--noverify")
    assert again.code == 0 and "PyTorch: not compared: --noverify" in again.out, again
    assert bits(tmp_path / "again") == bits(folder / part)
    was, now = (json.loads((each / "config.json").read_text()) for each in (folder / part, tmp_path / "again"))
    assert was == now
    assert certificate(tmp_path / "again")["transformers"] is None
    other = biomedgpt("export", f"--model={tmp_path / 'weights'}", f"--out={tmp_path / 'x'}", "--form=llava")
    assert_refused(other, 2, f"--form=llava: {tmp_path / 'weights'} holds a {part} alone; export it as {part}.")


def test_a_whole_model_there_and_back_is_bit_equal(tiny_run, tmp_path):
    first = biomedgpt(
        *("export", f"--model={tiny_run.folder}", f"--out={tmp_path / 'a'}", "--form=llama3med", "--noverify")
    )
    assert first.code == 0 and "Llama3MedForConditionalGeneration in" in first.out, first
    assert biomedgpt("import", f"--from={tmp_path / 'a'}", f"--out={tmp_path / 'w'}").code == 0
    call = ("export", f"--model={tmp_path / 'w'}", f"--out={tmp_path / 'b'}", "--form=llama3med", "--noverify")
    assert biomedgpt(*call).code == 0
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "biomedgpt.json", "preprocessor_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    (tmp_path / "w" / "biomedgpt.json").unlink()
    asked = biomedgpt("export", f"--model={tmp_path / 'w'}", f"--out={tmp_path / 'c'}")
    assert_refused(asked, 2, "does not say its template and geometry", "--template=NAME")


def test_a_run_without_lora_has_no_adapter(tiny_run, tmp_path):
    called = biomedgpt("export", f"--model={tiny_run.folder}", f"--out={tmp_path / 'out'}", "--form=adapter")
    assert_refused(called, 2, "--form=adapter", "was not trained with LoRA", "Leave --form out")
    assert not (tmp_path / "out").exists()


def test_the_card_says_what_the_run_was_made_from(tiny_run, tmp_path):
    origins = json.loads((tiny_run.folder / "origins.json").read_text())
    assert [(each["role"], each["name"]) for each in origins] == [("training data", "tiny")]
    manifest = json.loads(next(tiny_run.folder.parents[1].glob("**/data*/tiny/manifest.json")).read_text())
    assert origins[0]["sha256"] == manifest["fingerprint"]
    biomedgpt("export", f"--model={tiny_run.folder}", f"--out={tmp_path / 'out'}", "--noverify")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| training data | tiny | {manifest['licence']} | {manifest['fingerprint']} |" in card
    assert "strict/v1" in card and "95% interval" in card


def test_what_credentialed_data_made_is_never_uploaded(tiny_run, tmp_path):
    """Nor after the model was exported and imported again; what lint found travels along, without ids of samples."""
    run, out, weights = tmp_path / "run", tmp_path / "out", tmp_path / "weights"
    shutil.copytree(tiny_run.folder, run)
    (origin,) = json.loads((run / "origins.json").read_text())
    assert origin["access"] == "local"
    (run / "origins.json").write_text(json.dumps([{**origin, "name": "MedNLI", "access": "credentialed"}]))
    export = ("export", "--noverify", "--push-to-hub=my-lab/rad")
    refused = biomedgpt(*export, f"--model={run}", f"--out={out}")
    assert_refused(refused, 2, "--push-to-hub=my-lab/rad: the model was trained on credentialed data (MedNLI)")
    assert not out.exists()
    assert biomedgpt("export", "--noverify", f"--model={run}", f"--out={out}").code == 0
    assert "Trained on credentialed data (MedNLI)" in (out / "README.md").read_text()
    assert biomedgpt("import", f"--from={out}", f"--out={weights}").code == 0
    assert_refused(biomedgpt(*export, f"--model={weights}", f"--out={tmp_path / 'again'}"), 2, "(MedNLI)")
    kept, found = read_lint(run), read_lint(weights)
    assert kept is not None and found == without_ids(kept)
    assert score_facts(weights) == score_facts(run) and score_facts(run)["lint_checks"] == "at start"
    assert score_facts(tmp_path) == {"lint": "unknown", "lint_checks": "unknown", "lint_allowed": "unknown"}


def test_push_to_hub_sends_the_exported_bytes(alone, tmp_path, monkeypatch):
    hub, out = Hub("my-lab", "secret"), tmp_path / "out"
    folder, _ = alone
    assert biomedgpt("import", f"--from={folder / 'tower'}", f"--out={tmp_path / 'weights'}").code == 0
    export = ("export", f"--model={tmp_path / 'weights'}", f"--out={out}", "--noverify")
    assert_refused(biomedgpt(*export, "--push-to-hub=rad"), 2, "--push-to-hub=rad: expected owner/name")
    assert not out.exists()
    with serve_hub(hub) as address:
        for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "ENDPOINT": address}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "secret")
        huggingface_hub.utils._http.close_session()
        with pytest.warns(DeprecationWarning):
            called = biomedgpt(*export, "--push-to-hub=my-lab/rad")
        huggingface_hub.utils._http.close_session()
    assert called.code == 0 and f"uploaded: {address}/my-lab/rad" in called.out, called
    assert hub.repos["my-lab/rad"].keys() == contents(out).keys()
    assert all(data == (out / name).read_bytes() for name, data in hub.repos["my-lab/rad"].items())
