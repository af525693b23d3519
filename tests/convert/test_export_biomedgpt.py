"""BiomedGPT there and back: what is exported is what was published, bit for bit, in both forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from biomedgpt_jax.convert.export_biomedgpt import ExportPairs, export_fairseq, export_ofa
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.leaves import cast, in_memory
from biomedgpt_jax.convert.reimport import reimport
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.core.errors import RunError
from tests.command import Called, assert_refused, biomedgpt
from tests.convert.exported import CARD
from tests.convert.fairseq_fixture import SMALL, hf_state_dict, save_checkpoint, save_dictionary, state_dict
from tests.models.biomedgpt_rows import reference, tiny


@pytest.fixture(scope="module")
def state():
    return state_dict(SMALL, seed=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, state) -> Path:
    """Imported by the verb from a checkpoint with its tokenizer elsewhere."""
    folder = tmp_path_factory.mktemp("weights")
    save_dictionary(folder / "BPE")
    file = save_checkpoint(folder / "small.pt", state, SMALL)
    out = folder / "imported"
    called = biomedgpt("import", "--from=biomedgpt", file, f"--tokenizer={folder / 'BPE'}", f"--out={out}")
    assert_done(called, "biomedgpt (model) from", "with its tokenizer", "academic research and forbids")
    assert json.loads((out / "biomedgpt.json").read_text()) == {"image_size": 384, "pixels": "half"}
    (out / "answers.json").write_text("[[100, 2]]")
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

    again = tmp_path / "again"
    elsewhere = f"--tokenizer={weights.parent / 'BPE'}"
    assert_done(biomedgpt("import", f"--from={first}", f"--out={again}", elsewhere), "to academic research")
    hashes = {json.loads((folder / "weights.json").read_text())["hash"] for folder in (weights, again)}
    assert len(hashes) == 1
    assert (again / "answers.json").read_text() == "[[100, 2]]"


@pytest.mark.parametrize("export", [export_fairseq, export_ofa])
def test_a_model_of_other_sizes_in_bfloat16_comes_back(tmp_path, export):
    """A small vocabulary and a stem that no published model has, as after training one's own."""
    it = reference()
    leaves = cast(in_memory(it.params), "bfloat16")
    exported = export(tmp_path / "out", leaves, it.config, ExportPairs({"image_size": 64}, (), CARD))
    same = reimport(exported.folder, leaves, it.config)
    assert same.passed and same.leaves == len(leaves), same.unequal
    assert import_folder(exported.folder).config.stem_blocks == it.config.stem_blocks
    assert "| image size | 64 |" in (exported.folder / "README.md").read_text()


def test_what_a_form_cannot_say_is_named(tmp_path):
    it = reference(tiny(scale_heads=False, add_decoder_positions=True))
    leaves = in_memory(it.params)
    with pytest.raises(RunError, match=r"no word for .* scale_heads \(False, it can only say True\), add_decoder_pos"):
        export_ofa(tmp_path / "out", leaves, it.config, ExportPairs(None, (), CARD))


def test_a_tokenizer_of_another_model_is_refused_where_it_is_found(tmp_path, state):
    file = save_checkpoint(tmp_path / "small.pt", state, SMALL)
    fewer = save_dictionary(tmp_path / "BPE", words=50000)
    arguments = ("import", f"--from={file}", f"--out={tmp_path / 'out'}")
    assert_refused(biomedgpt(*arguments, f"--tokenizer={fewer}"), 2, "tokenizer has 59200 tokens, the model 59457")
    assert not (tmp_path / "out").exists()
    for name in ("encoder.json", "vocab.bpe", "dict.txt"):
        (fewer / name).rename(tmp_path / name)
    assert_done(biomedgpt(*arguments), "beside the weights will be refused", "has 59200 tokens, the model 59457")


def test_calls_that_cannot_be_meant_are_refused(tmp_path, weights):
    assert_refused(
        biomedgpt("export", f"--model={weights}", f"--out={tmp_path / 'x'}", "--form=llava"), 2, "ofa, fairseq"
    )
    assert_refused(biomedgpt("import", "--from=biomedgpt", f"--out={tmp_path / 'y'}"), 2, "name the checkpoint")
    assert_refused(
        biomedgpt("import", f"--from={weights}", "--ema", f"--out={tmp_path / 'y'}"), 2, "--ema and --harmless"
    )
