"""Where compiled programs are kept, and that they are found there."""

import jax
import jax.numpy as jnp
import pytest
from jax._src import monitoring

from biomedgpt_jax.core.compile_cache import cache_folder, use_cache


@pytest.mark.parametrize(
    ("setting", "workdir", "platform", "folder"),
    [
        ("", "runs/a", "tpu", "/cache/biomedgpt_jax/compiled"),
        ("", "runs/a", "cpu", None),
        ("off", "runs/a", "tpu", None),
        ("kept", "runs/a", "cpu", "kept"),
        ("", "gs://lab/run/", "tpu", "gs://lab/run/compile_cache"),
        ("gs://lab/programs", "gs://lab/run", "tpu", "gs://lab/programs"),
    ],
)
def test_cache_folder(monkeypatch, setting, workdir, platform, folder):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder(setting, workdir, platform) == folder


def test_the_environment_comes_before_the_default(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    assert cache_folder("", "gs://lab/run", "tpu") == "/mine"
    assert cache_folder("kept", "gs://lab/run", "tpu") == "kept"
    assert cache_folder("off", "gs://lab/run", "tpu") is None


def test_what_was_compiled_is_found_again(tmp_path, monkeypatch):
    """Also where JAX has compiled before without a cache, as this process has."""
    monkeypatch.setattr("biomedgpt_jax.core.compile_cache._MIN_SECONDS", 0.0)
    least, size = (jax.config.jax_persistent_cache_min_compile_time_secs, jax.config.jax_compilation_cache_dir)
    events: list[str] = []
    monitoring.register_event_listener(lambda event, **_: events.append(event))
    try:
        use_cache(str(tmp_path / "programs"))
        for _ in range(2):  # two functions to jit, one program
            jax.jit(lambda x: jnp.sin(x) @ x)(jnp.eye(3))
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        use_cache(size)
        monitoring.unregister_event_listener(monitoring.get_event_listeners()[-1])
    assert list((tmp_path / "programs").glob("jit_*"))
    assert "/jax/compilation_cache/cache_hits" in events
