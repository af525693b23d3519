"""`biomedgpt fit` on a tiny model, compiled for four v5e chips; no chip is needed, but libtpu is."""

import importlib.util
import json

import jax
import pytest

from tests.command import assert_refused, biomedgpt, config

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'biomedgpt-jax[tpu]'"
)
TINY = (
    config("llama3_med.py:stage=2,tower=tiny-clip,decoder=smoke,scales=56"),
    "--topology=v5e-4",
    "--config.data.row_tokens=256",
    "--config.data.image_slots=2",
    "--config.train.loss_chunk=64",
    "--config.train.batch_rows=6",
)
# Bytes of the peak on v5e-4 when this was last looked at: `fit` with TINY.
PEAK = 16_751_104


@pytest.fixture(scope="module", autouse=True)
def precision_of_runs():
    """The tests' float32 products at full precision are nothing that the TPU's kernels know."""
    with jax.default_matmul_precision("default"):
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A call of fit and what it wrote, and the folder of its compilations."""
    folder = tmp_path_factory.mktemp("fit")
    called = biomedgpt("fit", *TINY, f"--cache={folder / 'cache'}", f"--json={folder / 'out.json'}")
    assert called.code == 0, called
    return called, json.loads((folder / "out.json").read_text()), folder / "cache"


@needs_libtpu
def test_what_a_device_holds(fitted):
    called, found, _ = fitted
    held = found["bytes"]
    assert held["peak"] == pytest.approx(PEAK, rel=0.03), "look at what changed; then set PEAK anew"
    assert held["peak"] == held["parameters"] + held["optimizer"] + held["batch"] + held["temporaries"]
    # Two rows of 256 tokens in six arrays of four bytes, and two images of 56 x 56 each.
    assert held["batch"] == 2 * (256 * 6 * 4 + 2 * 56 * 56 * 3)
    assert found["fits"] and "15.75 GiB" in called.out


@needs_libtpu
def test_rows_that_do_not_divide_are_planned_with_more_and_it_is_said(fitted):
    called, found, _ = fitted
    assert found["config"]["train"]["batch_rows"] == 8
    assert "config.train.batch_rows=8, not 6" in called.out


@needs_libtpu
def test_times_and_rates_agree_with_each_other(fitted):
    _, found, _ = fitted
    speed = found["speed"]
    parts = speed["compute_seconds"] + speed["kernel_seconds"] + speed["exposed_seconds"]
    assert speed["step_seconds"] == pytest.approx(parts)
    assert speed["tokens_per_second"] * speed["step_seconds"] == pytest.approx(8 * 256)
    assert speed["images_per_second"] * speed["step_seconds"] == pytest.approx(16)
    assert speed["mfu"] == pytest.approx(found["flops"] / speed["step_seconds"] / 197e12)
    assert speed["mfu_causal"] < speed["mfu"]


@needs_libtpu
def test_a_second_call_neither_compiles_nor_lowers(fitted):
    _, found, cache = fitted
    (kept,), (note,) = cache.glob("*.json"), (cache / "asked").iterdir()
    facts = json.loads(kept.read_text())
    out = cache.parent / "again.json"
    # Under another name, to which the lowered program does not lead.
    (cache / f"{kept.stem}.hlo.gz").rename(cache / "other.hlo.gz")
    kept.rename(cache / "other.json").write_text(json.dumps({**facts, "seconds": 12345.0}))
    note.write_text("other")
    assert biomedgpt("fit", *TINY, f"--cache={cache}", f"--json={out}").code == 0
    assert json.loads(out.read_text()) == {**found, "compile_seconds": 12345.0}


@needs_libtpu
@pytest.mark.parametrize(
    ("options", "on_host"),
    [
        (("--config.model.remat.decoder=dots", "--config.lora.base=int8", "--config.tune.decoder=lora"), False),
        (("--config.model.remat.decoder=offload", "--config.model.remat.tower=offload"), True),
    ],
)
def test_other_policies_and_bases_compile_for_a_tpu(options, on_host, tmp_path):
    called = biomedgpt("fit", *TINY, *options, f"--cache={tmp_path}", f"--json={tmp_path / 'out.json'}")
    assert called.code == 0, called
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["fits"] and (found["bytes"]["host"] > 0) is on_host


@needs_libtpu
def test_what_does_not_fit_is_a_result(tmp_path):
    called = biomedgpt(
        "fit",
        config("llama3_med.py:stage=2,tower=tiny-clip,decoder=tinyllama-1.1b,scales=56"),
        *("--topology=v5e-4", "--config.data.row_tokens=2048", "--config.data.image_slots=0"),
        *("--config.train.batch_rows=64", "--config.model.remat.decoder=none"),
        *(f"--cache={tmp_path}", f"--json={tmp_path / 'out.json'}"),
    )
    assert called.code == 0 and "Does not fit. It needs" in called.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert not found["fits"] and found["needed"] > 16 * 2**30 and "exceeds available HBM" in found["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (("--topology=v5e",), 2, ("expected CHIP-NUMBER", "h100-8")),
        (("--topology=v5e-5",), 2, ("there are v5e-1, v5e-4",)),
        ((), 2, ("--topology is missing", "--topology=v5e-64")),
        (("--topology=v5e-4", "--search", "--search_rows=0,1"), 2, ("--search_rows=0,1", "more than 0")),
        (("--topology=v5e-4", "--search", "--search_tower_remat=some"), 2, ("'some'", "offload")),
        (("--topology=v5e-4", "--config.mesh.tensor=3"), 2, ("Mesh tensor=3",)),
    ],
)
def test_wrong_calls(arguments, code, texts):
    assert_refused(biomedgpt("fit", TINY[0], *arguments), code, *texts)
