"""Starts a verb somewhere else, or on many processes. The same command again resumes the run.

biomedgpt launch --target=tpu-pod --topology=v5e-64 --zone=us-east5-b --dry-run -- train ...

--dry-run prints every command and file that would be used, as a bash script. Targets:
  local    --processes on this machine
  tpu-vm   one TPU machine, made where it is not there           --topology --zone
  tpu-pod  a TPU slice of many machines                          --topology --zone
  queued   slices that start when Google has them (2xv5e-256)    --topology --zone --staging
  gke      a workload in a GKE cluster, through xpk              --topology --zone --cluster [--image --storage]
  jobset   the same through a manifest of ours and kubectl       --topology --zone --cluster --image [--storage]
  slurm    GPU nodes under Slurm                                 --topology [--option]
What runs on other machines is the commit that is checked out here.
"""

import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.topology import parse
from biomedgpt_jax.launch.gcloud import Tpu, queued, tpu_vm
from biomedgpt_jax.launch.gke import Cluster, gke, jobset
from biomedgpt_jax.launch.job import (
    MANY,
    Job,
    check_bucket,
    check_flags,
    check_job,
    check_name,
    check_project,
    check_zone,
)
from biomedgpt_jax.launch.local import local, supervise
from biomedgpt_jax.launch.plan import Plan, one_line, script
from biomedgpt_jax.launch.slurm import slurm
from biomedgpt_jax.verbs import command_line

EXAMPLE = "biomedgpt launch --target=tpu-pod --topology=v5e-64 --zone=us-east5-b -- train ..."
FILES = "runs/launch"


def define(values: flags.FlagValues) -> None:
    text = partial(flags.DEFINE_string, flag_values=values)
    number = partial(flags.DEFINE_integer, flag_values=values)
    yes = partial(flags.DEFINE_bool, flag_values=values)
    several = partial(flags.DEFINE_multi_string, flag_values=values)
    flags.DEFINE_enum("target", None, list(_PLANS), "Where to run.", flag_values=values)
    yes("dry-run", False, "Print what would be done, and do nothing.")
    text("name", "biomedgpt", "Of the TPU, the workload or the Slurm job.")
    number("retries", 3, "New tries after failures; preemptions always start again.")
    text("topology", None, "Accelerators, such as v5e-64, 2xv5e-256, v5p-32 or h100-16.")
    text("zone", None, "Google Cloud zone, such as us-east5-b.")
    text("project", None, "Google Cloud project; else the one that gcloud is set to.")
    yes("spot", False, "Cheaper machines that may be taken away.")
    yes("shared", False, "The output folder is a local path, and the same folder on all machines.")
    several("first", [], "Shell command for every TPU machine before the verb, as a mount; may be given several times.")
    text("staging", None, "gs:// folder from which queued machines take the code.")
    text("cluster", None, "Name of the GKE cluster.")
    text("image", None, "Container image with this package; gke makes one of the checkout where it is not given.")
    text("storage", None, "Disk for all pods: its name in xpk; CLAIM:/PATH for --target=jobset.")
    number("processes", 1, "On this machine, for --target=local.")
    number("port", 0, "Where they find each other; 0: a free one.")
    several("option", [], "Option for sbatch, such as --option=--partition=gpu; may be given several times.")


def run(values: flags.FlagValues, rest: list[str]) -> int:
    target = command_line.require(values, "target", EXAMPLE)
    if not rest:
        raise UsageError(f"What is to run is missing; it follows `--`. For example: {EXAMPLE}")
    job = Job(_value(values, "name"), tuple(rest), _value(values, "retries"))
    check_job(job)
    if target == "local":
        return _run_here(job, values)
    check_flags(job)
    _check_verb(rest)
    folder = f"{FILES}/{job.name}"
    plan = _PLANS[target](job, values, folder)
    _check_checkout(dry=_value(values, "dry-run"))
    if _value(values, "dry-run"):
        print(script(plan), end="")
    else:
        _run_plan(plan)
    return 0


def _tpu(values: flags.FlagValues) -> Tpu:
    project = _value(values, "project")
    return Tpu(
        topology=parse(command_line.require(values, "topology", EXAMPLE)),
        zone=check_zone(command_line.require(values, "zone", EXAMPLE)),
        project=check_project(project) if project else None,
        spot=_value(values, "spot"),
        shared=_value(values, "shared"),
        first=tuple(_value(values, "first")),
    )


def _cluster(values: flags.FlagValues) -> Cluster:
    name = check_name("cluster", command_line.require(values, "cluster", EXAMPLE))
    return Cluster(name, _value(values, "image"), _value(values, "storage"))


def _tpu_vm(job: Job, values: flags.FlagValues, folder: str) -> Plan:
    tpu = _tpu(values)
    if tpu.topology.hosts > 1:
        raise UsageError(f"--topology={tpu.topology.name} has {tpu.topology.hosts} machines: use --target=tpu-pod.")
    return tpu_vm(job, tpu, folder)


def _tpu_pod(job: Job, values: flags.FlagValues, folder: str) -> Plan:
    return tpu_vm(job, _tpu(values), folder)


def _queued(job: Job, values: flags.FlagValues, folder: str) -> Plan:
    staging = check_bucket("staging", command_line.require(values, "staging", "--staging=gs://lab/staging"))
    return queued(job, _tpu(values), staging, folder)


def _gke(job: Job, values: flags.FlagValues, folder: str) -> Plan:
    return gke(job, _tpu(values), _cluster(values), folder)


def _jobset(job: Job, values: flags.FlagValues, folder: str) -> Plan:
    return jobset(job, _tpu(values), _cluster(values), folder)


def _slurm(job: Job, values: flags.FlagValues, folder: str) -> Plan:
    topology = parse(command_line.require(values, "topology", "--topology=h100-16"))
    return slurm(job, topology, _value(values, "option"), folder, shared=_value(values, "shared"))


def _local(job: Job, values: flags.FlagValues, folder: str) -> Plan:
    processes = _value(values, "processes")
    if processes < 1:
        raise UsageError(f"--processes={processes}: expected 1 or more.")
    return local(job, processes, _value(values, "port") or _free_port())


_PLANS: dict[str, Callable[[Job, flags.FlagValues, str], Plan]] = {
    "local": _local,
    "tpu-vm": _tpu_vm,
    "tpu-pod": _tpu_pod,
    "queued": _queued,
    "gke": _gke,
    "jobset": _jobset,
    "slurm": _slurm,
}


def _run_here(job: Job, values: flags.FlagValues) -> int:
    plan = _local(job, values, "")
    if _value(values, "dry-run"):
        print(script(plan), end="")
        return 0
    return supervise([command.words for command in plan.commands], retries=job.retries, say=partial(print, flush=True))


def _run_plan(plan: Plan) -> None:
    """Raises RunError naming the command that failed or is not installed."""
    for file in plan.files:
        path = Path(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
    for command in plan.commands:
        if command.unless and subprocess.run(command.unless, capture_output=True, check=False).returncode == 0:
            continue
        print(f"{command.why}\n$ {one_line(command.words)}", flush=True)
        try:
            code = subprocess.run(command.words, check=False).returncode
        except FileNotFoundError:
            raise RunError(f"{command.words[0]} is not installed here, or not on PATH; install it first.") from None
        if code != 0:
            raise RunError(
                f"`{command.words[0]}` failed with exit code {code}; what it said is above. When that is mended, the "
                "same launch again goes on."
            )
    for command in plan.later:
        print(f"To {command.why}:\n  {one_line(command.words)}")


def _check_verb(rest: list[str]) -> None:
    """Finds a mistake in the verb's own flags here, not on a pod."""
    from biomedgpt_jax.__main__ import VERBS, verb_module

    if rest[0] not in VERBS or rest[0] == "launch":
        raise UsageError(f"After `--`: there is no verb {rest[0]!r} to launch.{command_line.suggest(rest[0], VERBS)}")
    flags_of_verb = [word for word in rest[1:] if word != "--debug"]
    values = command_line.parse(verb_module(rest[0]), flags_of_verb)
    if rest[0] in ("train", "eval"):
        command_line.require_folder(values, MANY[rest[0]], EXAMPLE)


def _check_checkout(*, dry: bool) -> None:
    """Raises UsageError where there is no commit to take along, or one that lacks what is here."""
    if not Path("launch/setup.sh").is_file() or not Path(".git").exists():
        raise UsageError("Call this in the folder of the checkout: the commit that is there goes along.")
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    if changed and not dry:
        files = ", ".join(line[3:] for line in changed.splitlines()[:5])
        raise UsageError(f"Not committed, so it would not go along: {files}. Commit it, or put it away.")


def _value(values: flags.FlagValues, name: str) -> Any:
    return values[name].value


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
