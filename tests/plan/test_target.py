"""GPUs are compiled for where JAX's build for CUDA is installed; where it is not, its name is said."""

import importlib.util

import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.topology import CHIPS, parse
from biomedgpt_jax.plan.target import target_devices

CUDA = importlib.util.find_spec("jax_cuda12_plugin") is not None


@pytest.mark.skipif(CUDA, reason="JAX's build for CUDA is installed")
def test_without_the_compiler_its_package_is_named():
    with pytest.raises(RunError, match=r'h100-8: .* is not installed.*pip install "jax\[cuda12\]=='):
        target_devices(parse("h100-8"))


@pytest.mark.skipif(not CUDA, reason="JAX's build for CUDA is not installed: pip install 'jax[cuda12]'")
@pytest.mark.parametrize(
    "chip", [chip for chip in CHIPS.values() if chip.platform == "cuda"], ids=lambda chip: chip.name
)
def test_every_gpu_is_known_to_the_compiler(chip):
    devices = target_devices(parse(f"{chip.name}-16"))
    assert len(devices) == 16
    assert {device.device_kind for device in devices} == {chip.device_kind}
    assert len({device.process_index for device in devices}) == 2
