"""The flags of a verb that may run as several processes, one on each machine."""

from absl import flags

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.processes import START_SECONDS, join


def define_processes(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "coordinator",
        None,
        "Of several processes: `auto` on a TPU pod, GKE or Slurm, else HOST:PORT of process 0; then also the next two.",
        flag_values=values,
    )
    flags.DEFINE_integer("processes", None, "How many processes run this command.", flag_values=values)
    flags.DEFINE_integer("process", None, "The number of this one, from 0.", flag_values=values)


def join_processes(values: flags.FlagValues, seconds: float = START_SECONDS) -> None:
    """Waits for the other processes, where the call says that there are some; comes before anything asks for devices.

    Raises:
        UsageError: half of the flags. RunError: a process is missing; names it.
    """
    if values.coordinator:
        join(values.coordinator, values.processes, values.process, seconds=seconds)
    elif values.processes is not None or values.process is not None:
        raise UsageError("--processes and --process need --coordinator=HOST:PORT, the address of process 0.")
