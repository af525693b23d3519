"""Exports, imports and evaluations that fail, may not be written, or are interrupted: nothing passes for whole."""

import json
import os
import signal
import threading
import time
from math import prod

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.command import assert_refused, biomedgpt, config, contents
from tests.convert.hub_server import Hub, serve_hub
from tests.disk import mounted
from tests.verbs.test_bad_weights import CONFIG, WIDTH, WORDS, llama  # noqa: F401 (a fixture)


def interrupted(begun, *arguments):
    """Calls the command line, and presses Ctrl-C when `begun()` is true."""
    done = threading.Event()

    def press():
        while not done.is_set():
            if begun():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        called = biomedgpt(*arguments)
    finally:
        done.set()
        thread.join()
    assert called.code == 1 and called.err.endswith(f"biomedgpt {arguments[0]}: interrupted\n"), called
    assert "Traceback" not in called.err
    return called


def lengthen(folder, words=500_000):
    """The same model with a table and a head of zeros, which take no place on the disk."""
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": words}))
    tensors = load_file(folder / "model.safetensors")
    header, offset = {}, 0
    for key in sorted(tensors, key=lambda key: key in ("lm_head.weight", "model.embed_tokens.weight")):
        shape = (words, WIDTH) if tensors[key].shape == (WORDS, WIDTH) else tensors[key].shape
        size = 4 * prod(shape)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def test_interrupted_import_and_export_leave_nothing_that_passes_for_whole(llama, tmp_path):  # noqa: F811
    lengthen(llama)
    weights, out = tmp_path / "weights", tmp_path / "out"
    call = ("import", f"--from={llama}", f"--out={weights}")
    interrupted((weights / "arrays" / "embed").exists, *call)
    assert not (weights / "weights.json").exists() and not (weights / "arrays").exists()
    assert biomedgpt(*call).code == 0
    export = ("export", f"--model={weights}", f"--out={out}", "--noverify")
    before = contents(weights)
    interrupted(lambda: list(tmp_path.glob(".out.partial/.writing*")), *export)
    assert {file.name for file in tmp_path.iterdir()} == {"llama", "weights"}
    assert contents(weights) == before
    assert biomedgpt(*export).code == 0 and (out / "parity.json").is_file()


def test_interrupted_eval_leaves_no_scores(tiny_run, prepared_data, tmp_path):
    out, before = tmp_path / "out", contents(tiny_run.folder)
    asked = (config(f"eval.py:data={prepared_data}"), "--config.max_new_tokens=2", "--config.batch_rows=8")
    interrupted(out.exists, "eval", *asked, f"--model={tiny_run.folder}", f"--out={out}")
    assert not list(out.iterdir()) and contents(tiny_run.folder) == before
    assert_refused(biomedgpt("eval", f"--compare={out},{out}"), 1, f"{out}", "Name the folder that `biomedgpt eval`")


def test_nothing_is_written_where_nothing_may_be(llama, tiny_run, tmp_path):  # noqa: F811
    disk = tmp_path / "disk"
    with mounted(disk, 2000) as resize:
        (disk / "empty").mkdir()
        resize(2000, "ro")
        for name in ("empty", "new"):
            for verb, source in (("import", f"--from={llama}"), ("export", f"--model={tiny_run.folder}")):
                called = biomedgpt(verb, source, f"--out={disk / name}")
                assert_refused(called, 1, f"{disk / name}", "ead-only file system")
        assert [file.name for file in disk.iterdir()] == ["empty"] and not list((disk / "empty").iterdir())


@pytest.fixture
def fragile(llama, tmp_path):  # noqa: F811
    """Weights whose logits are the small rest of large numbers that cancel, which bfloat16 cannot hold."""
    tensors = load_file(llama / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.0.{name}.weight"][:] = 0
    table = tensors["model.embed_tokens.weight"]
    table[:, WIDTH // 2 :] = -table[:, : WIDTH // 2]
    tensors["model.norm.weight"][:] = 1
    tensors["lm_head.weight"] += np.float32(1000)
    save_file(tensors, llama / "model.safetensors")
    assert biomedgpt("import", f"--from={llama}", f"--out={tmp_path / 'weights'}").code == 0
    return tmp_path / "weights"


def test_what_fails_its_certificate_is_not_uploaded(fragile, tmp_path, monkeypatch):
    hub, out = Hub("my-lab", "secret"), tmp_path / "out"
    with serve_hub(hub) as address:
        for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": address}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "secret")
        called = biomedgpt(
            *("export", f"--model={fragile}", f"--out={out}", "--dtype=bfloat16", "--verify"),
            "--push-to-hub=my-lab/rad",
        )
    assert called.code == 1 and f"{out} is not the same model; parity.json says where" in called.out, called
    assert "uploaded" not in called.out and hub.repos == {}
    proof = json.loads((out / "parity.json").read_text())
    assert not proof["passed"] and proof["rounding"]["max_rel"] > proof["rounding"]["tolerance"]
