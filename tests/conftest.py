"""Set once, before jax is imported: 8 CPU devices, float32 matrix products at full precision.

Programs compiled by one test are used again by the others, and by the processes that they start: most of the time goes
into compiling. JAX_COMPILATION_CACHE_DIR names a folder that is kept between runs.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

from tests.compiler import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla_flags(devices=8)
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
os.environ["HF_HUB_OFFLINE"] = "1"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # else another process of this session has made it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="biomedgpt-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

import pytest

from tests.command import prepared_data, raw_data, tiny_run  # noqa: F401 (fixtures for all below)

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """In the background of a shell Ctrl-C is ignored, and would be by the processes that tests interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with vqa_rad/: $BIOMEDGPT_DATA, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("BIOMEDGPT_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "vqa_rad").is_dir():
        pytest.skip(f"VQA-RAD is not at {folder}/vqa_rad; set BIOMEDGPT_DATA to test on it")
    return folder
