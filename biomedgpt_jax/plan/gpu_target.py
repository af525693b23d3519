"""NVIDIA GPUs that are not here, described as XLA's compiler wants to know them.

The figures are what the CUDA driver says of each device; XLA keeps such descriptions of its own
(xla/backends/gpu/target_config/specs in openxla/xla).
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.topology import Topology

# Triton's kernels are chosen by timing them; without a GPU the compiler takes the first, which may not serve the shape.
OPTIONS = {"xla_gpu_enable_triton_gemm": False}
# The oldest cuDNN that knows all kernels which are asked for; programs are compiled for it.
_CUDNN = (9, 10, 2)


@dataclass(frozen=True)
class _Gpu:
    compute_capability: int
    features: str  # of the capability, as XLA names them
    cores: int
    lanes: int  # float32 units of a core
    clock_ghz: float
    memory: int  # bytes, all of it
    memory_speed: int  # bytes per second
    cache: int  # bytes of L2
    shared_memory: int  # bytes of a core; a block may ask for 1 KiB less


_AMPERE = {"compute_capability": 8, "features": "NONE", "cores": 108, "lanes": 64, "clock_ghz": 1.41}
_HOPPER = {"compute_capability": 9, "features": "ACCELERATED_FEATURES", "cores": 132, "lanes": 128, "clock_ghz": 1.98}
_AMPERE |= {"cache": 41_943_040, "shared_memory": 167_936}
_HOPPER |= {"cache": 52_428_800, "shared_memory": 233_472}
_GPUS = {
    "a100": _Gpu(**_AMPERE, memory=85_100_068_864, memory_speed=2_039_040_000_000),
    "a100-40g": _Gpu(**_AMPERE, memory=42_331_013_120, memory_speed=1_555_200_000_000),
    "h100": _Gpu(**_HOPPER, memory=84_942_979_072, memory_speed=3_352_320_000_000),
    "h200": _Gpu(**_HOPPER, memory=151_397_597_184, memory_speed=4_800_000_000_000),
}


def gpu_devices(topology: Topology) -> list[Any]:
    """The GPUs of a topology, which can be compiled for and nothing else.

    Raises:
        RunError: the compiler for them is not installed.
    """
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise RunError(
            f"{topology.name}: JAX's build for CUDA, the compiler for these GPUs, is not installed. It needs no GPU: "
            f'pip install "jax[cuda12]=={jax.__version__}" (Linux, 5 GB).'
        )
    # Without a driver this is the only platform that starts, and a GPU that this machine may have is not touched.
    jax.config.update("jax_platforms", "cpu")
    on_a_host = min(topology.chips, topology.chip.host_chips)
    return list(
        topologies.get_topology_desc(
            platform="cuda",
            topology_name=topology.name,
            target_config=_description(topology),
            topology=f"1x{topology.hosts}x{on_a_host}",
        ).devices
    )


def _description(topology: Topology) -> str:
    """XLA's GpuTargetConfigProto as text."""
    gpu = _GPUS[topology.chip.name]
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": 2048,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.lanes,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "clock_rate_ghz": gpu.clock_ghz,
        "device_memory_size": gpu.memory,
        "memory_bandwidth": gpu.memory_speed,
        "l2_cache_size": gpu.cache,
        "shared_memory_per_block": 49_152,
        "shared_memory_per_core": gpu.shared_memory,
        "shared_memory_per_block_optin": gpu.shared_memory - 1024,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
    }
    lines = [f"{name}: {value}" for name, value in device.items()]
    lines.append(f"cuda_compute_capability {{ major: {gpu.compute_capability} feature_extension: {gpu.features} }}")
    cudnn = " ".join(f"{part}: {number}" for part, number in zip(("major", "minor", "patch"), _CUDNN, strict=True))
    return (
        f'gpu_device_info {{ {" ".join(lines)} }} platform_name: "CUDA" dnn_version_info {{ {cudnn} }} '
        f'device_description_str: "{topology.chip.device_kind}"'
    )
