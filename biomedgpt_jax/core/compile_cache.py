"""What was compiled once is kept on disk: a run that starts again begins to train at once."""

import os
from pathlib import Path

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

OFF = "off"
_MIN_SECONDS = 1.0  # what compiles faster is not worth a file


def cache_folder(setting: str, workdir: str, platform: str) -> str | None:
    """Where compiled programs are kept; None: nowhere.

    `setting` is a folder, "" or "off". "" is what JAX was told by its environment; else this user's cache, or beside a
    run in a bucket, whose next machine may be a new one; and nowhere on a CPU, whose programs may not run on the next
    kind of CPU that shares the folder.
    """
    if setting == OFF:
        return None
    if chosen := setting or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return chosen
    if platform == "cpu":
        return None
    if workdir.startswith("gs://"):
        return f"{workdir.rstrip('/')}/compile_cache"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(home) / "biomedgpt_jax" / "compiled")


def use_cache(folder: str | None) -> None:
    """Compilations from now on are read from `folder` and kept there. Changes this process's JAX."""
    if folder is not None:
        epath.Path(folder).mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX decides once, at its first compilation, whether there is one
