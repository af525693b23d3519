"""`biomedgpt import` of folders that are not what they should be."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.command import ROOT, TINY, assert_refused, biomedgpt, config, contents
from tests.disk import mounted

WIDTH, HEADS, MLP, WORDS = 8, 2, 12, 16
CONFIG = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "intermediate_size": MLP,
    "vocab_size": WORDS,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@pytest.fixture
def llama(tmp_path):
    """A Llama of one layer in the layout of Hugging Face."""
    head = WIDTH // HEADS
    layer = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (head, WIDTH),
        "self_attn.v_proj": (head, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (MLP, WIDTH),
        "mlp.up_proj": (MLP, WIDTH),
        "mlp.down_proj": (WIDTH, MLP),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    shapes = {
        "model.embed_tokens": (WORDS, WIDTH),
        **{f"model.layers.0.{name}": shape for name, shape in layer.items()},
        "model.norm": (WIDTH,),
        "lm_head": (WORDS, WIDTH),
    }
    folder = tmp_path / "llama"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def imported(folder, out="weights"):
    return biomedgpt("import", f"--from={folder}", f"--out={folder.parent / out}")


def test_a_file_is_no_folder(llama, tmp_path):
    called = biomedgpt("import", f"--from={llama / 'config.json'}", f"--out={tmp_path / 'weights'}")
    assert_refused(called, 1, "config.json is a file, expected the folder that holds")


def change_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])


Q = "model.layers.0.self_attn.q_proj.weight"
BROKEN = {
    "unknown family": (
        lambda f: change_config(f, model_type="mamba"),
        ("model_type 'mamba' cannot be imported", "llama"),
    ),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), ("config.json: not a model configuration",)),
    "unknown attribute": (
        lambda f: change_config(f, sliding_magic=3),
        ("attributes we do not know: sliding_magic = 3",),
    ),
    "another variant": (lambda f: change_config(f, hidden_act="relu6"), ("config.json", "relu6")),
    "size in quotes": (lambda f: change_config(f, hidden_size="8"), ("hidden_size is '8', expected a whole number",)),
    "size is null": (lambda f: change_config(f, vocab_size=None), ("vocab_size is None, expected a whole number",)),
    "negative size": (lambda f: change_config(f, num_hidden_layers=-1), ("num_hidden_layers is -1, expected",)),
    "more layers than memory": (
        lambda f: change_config(f, num_hidden_layers=10**8),
        ("says 100000000 layers, but there are 12 tensors",),
    ),
    "flag in quotes": (lambda f: change_config(f, tie_word_embeddings="no"), ("is 'no', expected true or false",)),
    "family is a list": (
        lambda f: change_config(f, model_type=["llama"]),
        ("model_type ['llama'] cannot be imported",),
    ),
    "positions are a list": (lambda f: change_config(f, rope_parameters=[1]), ("RoPE parameters is [1], expected an",)),
    "base of positions is a word": (
        lambda f: change_config(f, rope_parameters={"rope_type": "default", "rope_theta": "big"}),
        ("rope_theta is 'big', expected a number",),
    ),
    "two ways of positions": (
        lambda f: change_config(
            f, rope_parameters={"rope_type": "default"}, rope_scaling={"type": "dynamic", "factor": 2.0}
        ),
        ("rope_parameters {'rope_type': 'default'} and rope_scaling", "differ"),
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        ("expected model.safetensors or", "found config.json"),
    ),
    "truncated": (cut, ("model.safetensors: cut off: tensor", "Download it again")),
    "not safetensors": (lambda f: (f / "model.safetensors").write_text("hello"), ("not a safetensors file",)),
    "missing tensor": (lambda f: change_tensors(f, lambda t: t.pop(Q)), (Q, str(Q))),
    "tensor too many": (lambda f: change_tensors(f, lambda t: t.update(extra=np.ones(2))), ("extra",)),
    "not a number": (
        lambda f: change_tensors(f, lambda t: t[Q].__setitem__((1, 2), np.nan)),
        ("1 of 12 tensors hold NaN", f"{Q} (1 of 64)", "take another checkpoint"),
    ),
    "other shape": (
        lambda f: change_tensors(f, lambda t: t.update({Q: np.ones((WIDTH, WIDTH + 1), np.float32)})),
        (Q, "(8, 9)", "(8, 8)"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folder_is_refused_and_leaves_no_weights(name, llama):
    spoil, texts = BROKEN[name]
    spoil(llama)
    before = contents(llama)
    assert_refused(imported(llama), 1, *texts)
    assert contents(llama) == before
    assert not (llama.parent / "weights" / "weights.json").exists()


def test_float64_is_said_to_become_float32(llama):
    change_tensors(llama, lambda t: t.update({Q: t[Q].astype(np.float64)}))
    called = imported(llama)
    assert called.code == 0 and "1 of 12 tensors were float64 and are float32 now" in called.out, called
    table = json.loads((llama.parent / "weights" / "weights.json").read_text())
    assert table["meta"]["source_dtypes"] == {"float32": 11, "float64": 1}
    cast = biomedgpt("import", f"--from={llama}", f"--out={llama.parent / 'cast'}", "--dtype=bfloat16")
    assert cast.code == 0 and "note:" not in cast.out


def test_a_place_that_cannot_be_written_is_named(llama, tmp_path):
    (tmp_path / "file").write_text("taken")
    assert_refused(imported(llama, "file"), 2, "file is no folder", "choose another name")
    assert_refused(imported(llama, "file/below"), 1, "file/below: cannot be written", "Choose another folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert_refused(imported(llama, "other"), 2, "other is not empty")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_an_interrupted_import_may_be_run_again(llama, tmp_path):
    (tmp_path / "weights" / "arrays" / "norm").mkdir(parents=True)
    (tmp_path / "weights" / "arrays" / "norm" / "zarr.json").write_text("half")
    assert imported(llama).code == 0
    assert_refused(imported(llama), 2, "is not empty")


def test_whole_folder_is_imported_and_its_tokenizer_is_missed(llama, prepared_data, tmp_path):
    assert imported(llama).code == 0
    weights = tmp_path / "weights"
    arguments = ("train", config(f"smoke.py:stage=1,data={prepared_data}"), *TINY, f"--workdir={tmp_path / 'run'}")
    decoder = f"--config.model.decoder={weights}"
    called = biomedgpt(*arguments, decoder, "--config.tokenizer.train_vocab_size=0")
    assert_refused(called, 1, f"{weights} holds no tokenizer: looked for tokenizer.json")
    called = biomedgpt(*arguments, decoder)
    assert_refused(called, 2, "The tokenizer has 290 tokens, the decoder's embedding 16 rows", "config.tokenizer.path")
    as_tower = biomedgpt(*arguments, f"--config.model.tower={weights}")
    assert_refused(as_tower, 1, f"{weights}: the configuration of a tower: expected a VitConfig")


def test_import_on_a_full_disk_leaves_no_weights_and_goes_through_when_there_is_space(llama, tmp_path):
    out = tmp_path / "disk" / "weights"
    arguments = ("import", f"--from={llama}", f"--out={out}")
    with mounted(tmp_path / "disk", 16) as resize:
        assert_refused(biomedgpt(*arguments), 1, f"{out}", "o space left on device", "ree space")
        assert not (out / "weights.json").exists()
        resize(2000)
        shutil.rmtree(out)
        assert biomedgpt(*arguments).code == 0
        assert (out / "weights.json").exists()


def test_damaged_weights_folder_is_named(llama, prepared_data, tmp_path):
    assert imported(llama).code == 0
    table = tmp_path / "weights" / "weights.json"
    arguments = ("ledger", f"--config={ROOT}/configs/smoke.py", f"--config.model.decoder={tmp_path / 'weights'}")
    assert biomedgpt(*arguments).code == 0
    table.write_text(table.read_text()[:-10])
    assert_refused(biomedgpt(*arguments), 1, f"{table} is not JSON", "Import or copy it again")
