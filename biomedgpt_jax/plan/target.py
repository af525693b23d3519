"""Devices that are not here: what to compile for, without an accelerator."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.topology import Topology
from biomedgpt_jax.plan.gpu_target import OPTIONS, gpu_devices

# What libtpu would ask the metadata server of a TPU machine for, and a second process may use it at the same time.
# It reads these when it is loaded, so they are set before that.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
}


def target_devices(topology: Topology) -> list[Any]:
    """The devices of a topology, which can be compiled for and nothing else.

    Raises:
        RunError: the compiler for them is not installed.
    """
    if topology.chip.platform != "tpu":
        return gpu_devices(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise RunError(
            f"{topology.name}: libtpu, the TPU's compiler, is not installed. It needs no TPU: "
            "pip install 'biomedgpt-jax[tpu]' (Linux)."
        )
    # A TPU that this machine may have is not touched.
    jax.config.update("jax_platforms", "cpu")
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    return list(topologies.get_topology_desc(platform="tpu", **_libtpu_arguments(topology)).devices)


def compiler_options(topology: Topology) -> Mapping[str, Any]:
    """What has to be said to the compiler because the devices are not here."""
    return OPTIONS if topology.chip.platform == "cuda" else {}


def _libtpu_arguments(topology: Topology) -> dict[str, Any]:
    arguments: dict[str, Any] = {"topology_name": topology.libtpu_name, "num_slices": topology.slices}
    if topology.chips < topology.chip.host_chips:
        arguments["chips_per_host_bounds"] = (1,) * 3
    elif topology.chip.name == "v4":
        # Both cores of a chip as one device; of newer kinds this is so without a word.
        arguments |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
    return arguments
