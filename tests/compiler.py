"""How XLA compiles what the tests run: a quarter of the time, since most programs run once."""

# Code of LLVM without optimization; fusions by the older emitter, whose code is far smaller.
_QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
# The options of a training, for `jax.jit(compiler_options=...)`, where a test asks for the very bits that it computes.
AS_IN_TRAINING = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}


def xla_flags(devices: int) -> str:
    """$XLA_FLAGS of a process with so many CPU devices."""
    return f"--xla_force_host_platform_device_count={devices} {_QUICKLY}"
