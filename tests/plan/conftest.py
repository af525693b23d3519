import importlib.util

import pytest


@pytest.fixture(scope="session")
def v5e_4():
    """Four compile-only devices; tests that need the TPU's compiler skip where it is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed; pip install 'biomedgpt-jax[tpu]' to compile for TPUs here")
    from biomedgpt_jax.core.topology import parse
    from biomedgpt_jax.plan.target import target_devices

    return target_devices(parse("v5e-4"))
