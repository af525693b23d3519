"""`biomedgpt prepare --features`, and runs that read what it made."""

import json
from pathlib import Path

import pytest

from tests.command import SHORT, assert_refused, biomedgpt, config, contents

# A frozen tower at two scales, in bfloat16; three steps.
SETTINGS = (
    *SHORT,
    "--config.model.decoder=smoke",
    "--config.model.tower=tiny-dinov2",
    "--config.model.scales=(56, 112)",  # a second one would be added to these
    "--config.model.compute_dtype=bfloat16",
    "--config.model.frozen_dtype=bfloat16",
    "--config.train.epochs=3",
    "--config.train.log_every=1",
)


def arguments(prepared_data: Path) -> tuple[str, ...]:
    return config(f"smoke.py:stage=2,data={prepared_data}"), *SETTINGS


@pytest.fixture(scope="module")
def cache(prepared_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("features") / "cache"
    called = biomedgpt("prepare", "--features", *arguments(prepared_data), f"--out={out}")
    assert called.code == 0, called
    # Both splits: 4 images of train and 2 of test.
    assert f"{out}: features of 6 images, 6 of them new." in called.out
    assert "features: 6/6" in called.err
    return out


@pytest.fixture(scope="module")
def cached_run(cache, prepared_data, tmp_path_factory) -> Path:
    """Trained from batches of a worker process, which sends bfloat16 arrays."""
    folder = tmp_path_factory.mktemp("runs") / "cached"
    called = biomedgpt(
        "train",
        *arguments(prepared_data),
        f"--config.data.features={cache}",
        "--config.data.workers=1",
        "--config.eval.paths=()",
        f"--workdir={folder}",
    )
    assert called.code == 0, called
    return folder


def losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_training_is_that_from_images(cached_run, prepared_data, tmp_path):
    called = biomedgpt("train", *arguments(prepared_data), "--config.eval.paths=()", f"--workdir={tmp_path / 'online'}")
    assert called.code == 0, called
    online, cached = losses(tmp_path / "online"), losses(cached_run)
    assert len(online) == 3 and online[2] != online[0]
    # The first update has rate 0, so two steps see the same weights: equal features are equal losses. Over several
    # devices gradients may differ in their last bits (docs/feature_cache.md).
    assert cached[:2] == online[:2]
    assert cached[2] == pytest.approx(online[2], rel=1e-3)


def test_the_frozen_tower_stays_in_the_run(cached_run):
    (base,) = (cached_run / "base").glob("*/weights.json")
    assert any(leaf.startswith("tower/") for leaf in json.loads(base.read_text())["leaves"])


def test_eval_reads_them_too(cached_run, cache, prepared_data, tmp_path):
    called = biomedgpt(
        "eval",
        config(f"eval.py:data={prepared_data}"),
        f"--model={cached_run}",
        f"--out={tmp_path / 'eval'}",
        f"--config.features={cache}",
        "--config.dtype=bfloat16",
        "--config.max_new_tokens=2",
        "--config.batch_rows=8",
    )
    assert called.code == 0, called
    assert len((tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()) == 2


def test_features_of_something_else_are_refused(cache, prepared_data, tmp_path):
    called = biomedgpt(
        "train",
        *arguments(prepared_data),
        f"--config.data.features={cache}",
        "--config.model.feature_layer=2",
        "--config.data.geometry=crop",
        f"--workdir={tmp_path / 'run'}",
    )
    differences = "(2 differences). features/layer: expected 2, found -1; image/geometry: expected 'crop', found 'pad'."
    assert_refused(called, 1, str(cache), differences)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_cache_of_another_tower_is_not_mixed_in(cache, prepared_data):
    before = contents(cache)
    called = biomedgpt("prepare", "--features", *arguments(prepared_data), "--config.seed=43", f"--out={cache}")
    assert_refused(called, 1, f"{cache} holds features of something else (1 differences). weights: expected")
    assert contents(cache) == before


def test_calls_that_cannot_be_right(cache, prepared_data, tmp_path):
    missing = biomedgpt(
        "train", *arguments(prepared_data), f"--config.data.features={tmp_path}/no", f"--workdir={tmp_path / 'run'}"
    )
    assert_refused(missing, 1, f"{tmp_path}/no: there is no feature cache", "run `biomedgpt prepare --features")
    trained = biomedgpt(
        "prepare", "--features", *arguments(prepared_data), "--config.tune.tower=True", f"--out={cache}"
    )
    assert_refused(trained, 2, "config.tune.tower = True", "--config.data.features=''")
    nothing = biomedgpt("prepare", "--features", config("smoke.py:stage=2"), f"--out={tmp_path / 'out'}")
    assert_refused(nothing, 2, "config.data.paths is empty")
