"""TPU machines through gcloud: one TPU VM, a pod of them, and queued resources of one or more slices."""

import shlex
from dataclasses import dataclass

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.topology import Topology
from biomedgpt_jax.launch.job import Job, check_many, check_tpu, shell_lines
from biomedgpt_jax.launch.plan import COORDINATOR_PORT, Command, File, Plan

# As Google Cloud's page "TPU software versions" lists them. Newer chips are not in this interface.
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
_TYPES = {"v5e": "v5litepod"}
_TPU_VM = ("gcloud", "compute", "tpus", "tpu-vm")
_QUEUED = ("gcloud", "compute", "tpus", "queued-resources")
_FOLDER = "biomedgpt"  # the checkout in the home of the user on each machine
_PID = f"{_FOLDER}.pid"
_PORT = f"export JAX_COORDINATOR_PORT={COORDINATOR_PORT}"


@dataclass(frozen=True)
class Tpu:
    topology: Topology
    zone: str
    project: str | None  # None: the one that gcloud is set to
    spot: bool
    shared: bool  # a local path of output is the same folder on all machines
    first: tuple[str, ...]  # shell commands that each machine runs in the checkout before the verb

    @property
    def where(self) -> tuple[str, ...]:
        return f"--zone={self.zone}", *((f"--project={self.project}",) if self.project else ())

    @property
    def accelerator_type(self) -> str:
        """Of one slice, as gcloud and xpk name it."""
        chip, number = self.topology.chip, self.topology.chips * self.topology.chip.counted_per_chip
        return f"{_TYPES.get(chip.name, chip.name)}-{number}"


def tpu_vm(job: Job, tpu: Tpu, folder: str) -> Plan:
    """One slice: makes it where there is none, copies the checkout to all its machines, and starts the verb on each.

    Raises:
        UsageError: several slices, a chip that gcloud does not make, output where not all machines can write.
    """
    runtime = _runtime(tpu.topology)
    if tpu.topology.slices > 1:
        raise UsageError(f"--topology={tpu.topology.name}: several slices are --target=queued, gke or jobset.")
    many = tpu.topology.hosts > 1
    if many:
        check_many(job, shared=tpu.shared)
    archive = f"{folder}/{_FOLDER}.tar.gz"
    make = [*_TPU_VM, "create", job.name, *tpu.where, f"--accelerator-type={tpu.accelerator_type}"]
    make += [f"--version={runtime}", *(["--spot"] if tpu.spot else [])]
    exists = (*_TPU_VM, "describe", job.name, *tpu.where)
    copy = (*_TPU_VM, "scp", archive, f"{job.name}:{_FOLDER}.tar.gz", *tpu.where, "--worker=all")
    return Plan(
        files=(),
        commands=(
            *archive_commands(archive, folder),
            Command("The TPU, unless it is there.", tuple(make), unless=exists),
            Command("What was committed, to every machine.", copy),
            Command("Unpacks and installs there.", _ssh(job, tpu, _install(tpu))),
            Command("Starts on every machine, and leaves it running.", _ssh(job, tpu, _start(job, many))),
        ),
        later=(
            Command("watch it", _ssh(job, tpu, f"tail -n 50 -F {_log(job)}", worker="0")),
            Command("stop it (it saves)", _ssh(job, tpu, f'kill -TERM "$(cat {_PID})"')),
            Command("give the TPU back", (*_TPU_VM, "delete", job.name, *tpu.where)),
        ),
    )


def queued(job: Job, tpu: Tpu, staging: str, folder: str) -> Plan:
    """Slices that start by themselves when Google has them, and at every boot of their machines.

    Args:
        job: what to run.
        tpu: on which machines.
        staging: gs:// folder from which the machines take the checkout.
        folder: local, for the files of the launch.

    Raises:
        UsageError: a chip that gcloud does not make, output where not all machines can write.
    """
    runtime = _runtime(tpu.topology)
    many = tpu.topology.hosts > 1
    if many:
        check_many(job, shared=tpu.shared)
    archive, startup = f"{folder}/{_FOLDER}.tar.gz", f"{folder}/startup.sh"
    staged = f"{staging}/{job.name}.tar.gz"
    slices = tpu.topology.slices
    nodes = [f"--node-count={slices}", f"--node-prefix={job.name}"] if slices > 1 else [f"--node-id={job.name}"]
    create = [*_QUEUED, "create", job.name, *tpu.where, f"--accelerator-type={tpu.accelerator_type}"]
    create += [f"--runtime-version={runtime}", *nodes, *(["--spot"] if tpu.spot else [])]
    create += [f"--metadata-from-file=startup-script={startup}"]
    each = [*_QUEUED, "ssh", job.name, *tpu.where]
    watch = (*each, "--node=0", "--worker=0", f"--command=sudo tail -n 50 -F {_log(job, '/var/log/')}")
    return Plan(
        files=(File(startup, _startup(job, tpu, staged, many)),),
        commands=(
            *archive_commands(archive, folder),
            Command("What was committed, to where the machines find it.", ("gcloud", "storage", "cp", archive, staged)),
            Command("Asks for the TPU; its machines run the startup file above.", tuple(create)),
        ),
        later=(
            Command("see how far the request is", (*_QUEUED, "describe", job.name, *tpu.where)),
            Command("watch it", watch),
            Command(
                "give the TPU back; also before the same launch after a preemption",
                (*_QUEUED, "delete", job.name, *tpu.where, "--force"),
            ),
        ),
    )


def archive_commands(archive: str, folder: str) -> tuple[Command, ...]:
    return (
        Command("The folder of this launch.", ("mkdir", "-p", folder)),
        Command("Packs what was committed.", ("git", "archive", "--format=tar.gz", f"--output={archive}", "HEAD")),
    )


def _runtime(topology: Topology) -> str:
    check_tpu(topology, "tpu-vm, tpu-pod and queued")
    if topology.chip.name not in RUNTIMES:
        raise UsageError(
            f"--topology={topology.name}: gcloud's TPU interface makes {', '.join(RUNTIMES)}; "
            f"for {topology.chip.name} use --target=gke or jobset."
        )
    return RUNTIMES[topology.chip.name]


def _ssh(job: Job, tpu: Tpu, command: str, worker: str = "all") -> tuple[str, ...]:
    return *_TPU_VM, "ssh", job.name, *tpu.where, f"--worker={worker}", f"--command={command}"


def _install(tpu: Tpu) -> str:
    busy = f'if [ -f {_PID} ] && kill -0 "$(cat {_PID})" 2>/dev/null; then'
    refuse = f'echo "A job is running here (process $(cat {_PID})); stop it first." >&2; exit 1; fi'
    unpack = f"mkdir -p {_FOLDER} && tar -xzf {_FOLDER}.tar.gz -C {_FOLDER}"
    return " && ".join([f"{busy} {refuse}", unpack, f"cd {_FOLDER}", *shell_lines(tpu.first), "bash launch/setup.sh"])


def _start(job: Job, many: bool) -> str:
    run = f"setsid nohup {_supervised(job, many)} >>../{_log(job)} 2>&1 </dev/null &"
    return f"cd {_FOLDER} && {_PORT} && {{ {run} echo $! >../{_PID}; }}"


def _supervised(job: Job, many: bool) -> str:
    program = job.distributed if many else job.program
    return shlex.join(["bash", "launch/local.sh", f"--retries={job.retries}", "--", *program[1:]])


def _startup(job: Job, tpu: Tpu, staged: str, many: bool) -> str:
    """Run by root on every machine, at every boot."""
    lines = [
        "#!/usr/bin/env bash",
        f"exec >>{_log(job, '/var/log/')} 2>&1",
        "set -euo pipefail",
        "export HOME=/root",
        f"mkdir -p /opt/{_FOLDER}",
        f"cd /opt/{_FOLDER}",
        f"{shlex.join(['gcloud', 'storage', 'cp', staged, f'../{_FOLDER}.tar.gz'])}",
        f"tar -xzf ../{_FOLDER}.tar.gz",
        *shell_lines(tpu.first),
        _PORT,
        f"exec {_supervised(job, many)}",
    ]
    return "\n".join(lines) + "\n"


def _log(job: Job, folder: str = "") -> str:
    return f"{folder}{job.name}.log"
