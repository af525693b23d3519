"""GPU machines under Slurm, whose nodes share the checkout's folder: one task for each GPU."""

import re
import shlex
from collections.abc import Sequence

from biomedgpt_jax.core.errors import EXIT_RESTART, UsageError
from biomedgpt_jax.core.topology import Topology
from biomedgpt_jax.launch.job import Job, check_many
from biomedgpt_jax.launch.plan import Command, File, Plan

_SAVE_SECONDS = 300  # before the time limit
_OTHERS_SECONDS = 150  # that tasks get after the first one ended


def slurm(job: Job, topology: Topology, options: Sequence[str], folder: str, *, shared: bool) -> Plan:
    """A batch script, and sbatch with the user's options, such as --partition=gpu.

    Raises:
        UsageError: TPUs; an option that is none; output where not all machines can write.
    """
    if topology.chip.platform != "cuda":
        raise UsageError(f"--topology={topology.name}: --target=slurm is for GPUs, such as h100-8 or h100-32.")
    wrong = [option for option in options if not re.fullmatch(r"--[a-z][-a-z]*(=[^\n]*)?", option)]
    if wrong:
        raise UsageError(f"--option={wrong[0]}: expected an option of sbatch, such as --option=--partition=gpu.")
    if topology.chips > 1:
        check_many(job, shared=shared or topology.hosts == 1)
    path = f"{folder}/job.sh"
    return Plan(
        files=(File(path, batch_script(job, topology, folder)),),
        commands=(Command("Hands the job in.", ("sbatch", *options, path)),),
        later=(
            Command("see it", ("squeue", f"--name={job.name}")),
            Command("watch it", ("tail", "-n", "50", "-F", f"{folder}/{job.name}.log")),
            Command("stop it", ("scancel", "--me", f"--name={job.name}")),
        ),
    )


def batch_script(job: Job, topology: Topology, folder: str) -> str:
    """Ends a preempted run, or one at its time limit, by queueing itself again."""
    gpus = topology.chips // topology.hosts
    program = shlex.join(job.distributed if topology.chips > 1 else job.program)
    return f"""#!/usr/bin/env bash
#SBATCH --job-name={job.name}
#SBATCH --nodes={topology.hosts}
#SBATCH --gpus-per-node={gpus}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --output={folder}/{job.name}.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@{_SAVE_SECONDS}
source launch/setup.sh
code=0
srun --kill-on-bad-exit=0 --wait={_OTHERS_SECONDS} {program} || code=$?
if [ "$code" = {EXIT_RESTART} ]; then
  echo "Preempted; queued again, and goes on from what it saved."
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
