"""BiomedGPT there and back: what is exported is what was published, bit for bit, in both forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from biomedgpt_jax.convert.tensors import SafetensorsFolder
from tests.command import Called, assert_refused, biomedgpt
from tests.convert.fairseq_fixture import SMALL, hf_state_dict, save_checkpoint, save_hf_folder, state_dict

TOKENIZER = {"encoder.json": "{}", "vocab.bpe": "#version: 0.2\n", "dict.txt": ""}


@pytest.fixture(scope="module")
def state():
    """Without the largest tables, which only the test of the inventory needs."""
    return state_dict(SMALL, seed=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, state) -> Path:
    """Imported by the verb from a checkpoint with its tokenizer elsewhere."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "BPE").mkdir()
    for name, text in TOKENIZER.items():
        (folder / "BPE" / name).write_text(text)
    file = save_checkpoint(folder / "small.pt", state, SMALL)
    out = folder / "imported"
    called = biomedgpt("import", "--from=biomedgpt", file, f"--tokenizer={folder / 'BPE'}", f"--out={out}")
    assert_done(called, "biomedgpt (model) from", "with its tokenizer", "academic research and forbids")
    return out


def assert_done(called: Called, *texts: str) -> None:
    assert called.code == 0, called.err
    for text in texts:
        assert text in called.out


def stored(state):
    """What an export holds of it: counters of batches are 0."""
    return {key: torch.tensor(0) if key.endswith("num_batches_tracked") else tensor for key, tensor in state.items()}


def test_the_checkpoint_comes_back_bit_for_bit(tmp_path, state, weights):
    out = tmp_path / "fairseq"
    assert_done(biomedgpt("export", f"--model={weights}", f"--out={out}", "--form=fairseq"), "read back: 209 arrays, 0")
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["model"].keys() == state.keys()
    for key, tensor in stored(state).items():
        assert saved["model"][key].dtype == tensor.dtype and torch.equal(saved["model"][key], tensor), key
    assert saved["cfg"]["model"]["disable_entangle"] is True
    assert (out / "dict.txt").is_file() and json.loads((out / "parity.json").read_text())["passed"]


def test_the_hugging_face_form_comes_back_bit_for_bit(tmp_path, state, weights):
    first = tmp_path / "ofa"
    assert_done(biomedgpt("export", f"--model={weights}", f"--out={first}"), "OFAModel in")
    found, expected = SafetensorsFolder(first), hf_state_dict(stored(state))
    expected["decoder.image_position_idx"] = expected["decoder.image_position_idx"][:-1]  # of this form
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor.numpy(), err_msg=key)
    card = (first / "README.md").read_text()
    assert "license: other" in card and "forbids commercial and clinical use" in card

    folder = save_hf_folder(tmp_path / "published", state, SMALL)
    hashes = set()
    for source in (first, folder):
        called = biomedgpt("import", f"--from={source}", f"--out={tmp_path / source.name}-weights")
        assert_done(called)
        hashes.add(json.loads((tmp_path / f"{source.name}-weights" / "weights.json").read_text())["hash"])
    assert hashes == {json.loads((weights / "weights.json").read_text())["hash"]}


def test_a_narrower_dtype_is_written_and_said(tmp_path, weights):
    out = tmp_path / "half"
    arguments = (f"--model={weights}", f"--out={out}", "--form=fairseq", "--dtype=bfloat16")
    assert_done(biomedgpt("export", *arguments), "0 differ")
    saved = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    assert saved["encoder.layer_norm.weight"].dtype == torch.bfloat16
    assert saved["encoder.token_rp_bucket"].dtype == torch.int64


def test_calls_that_cannot_be_meant_are_refused(tmp_path, weights):
    assert_refused(
        biomedgpt("export", f"--model={weights}", f"--out={tmp_path / 'x'}", "--form=llava"), 2, "ofa, fairseq"
    )
    assert_refused(biomedgpt("import", "--from=biomedgpt", f"--out={tmp_path / 'y'}"), 2, "name the checkpoint")
    assert_refused(
        biomedgpt("import", f"--from={weights}", "--ema", f"--out={tmp_path / 'y'}"), 2, "--ema and --harmless"
    )
