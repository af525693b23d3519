"""What is to be run: a verb with its arguments, under a name, and what its place must offer."""

import re
import shlex
from dataclasses import dataclass

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.topology import Topology

# Verbs that run on many processes, and the flag that names the folder they share.
MANY = {"train": "workdir", "eval": "out", "doctor": "workdir"}
_OURS = "--coordinator", "--processes", "--process"


@dataclass(frozen=True)
class Job:
    name: str
    verb: tuple[str, ...]  # a verb and its arguments
    retries: int  # after failures; preemptions are not counted

    @property
    def program(self) -> tuple[str, ...]:
        return "biomedgpt", *self.verb

    @property
    def distributed(self) -> tuple[str, ...]:
        """The program as each of many processes runs it, where JAX can see which of them it is."""
        return *self.program, "--coordinator=auto"


def check_job(job: Job) -> None:
    """Raises UsageError for a name that a cloud refuses, and for a number that is none."""
    check_name("name", job.name)
    if job.retries < 0:
        raise UsageError(f"--retries={job.retries}: expected 0 or more.")


def check_flags(job: Job) -> None:
    """Raises UsageError for flags of the verb that the launcher sets itself."""
    given = [word for word in job.verb if word.split("=")[0] in _OURS]
    if given:
        raise UsageError(f"{given[0]}: the launcher sets this itself; leave it out.")


def check_many(job: Job, *, shared: bool) -> None:
    """Raises UsageError where the verb runs in one process only, or writes where not all machines can.

    `shared` says that a local path is the same folder on all of them.
    """
    check_flags(job)
    verb = job.verb[0]
    if verb not in MANY:
        raise UsageError(f"`{verb}` runs in one process; on several machines or processes run {', '.join(MANY)}.")
    flag = f"--{MANY[verb]}="
    folder = next((word.removeprefix(flag) for word in job.verb if word.startswith(flag)), None)
    if folder is None and verb == "doctor":
        return
    if folder is None:
        raise UsageError(f"{flag[:-1]} is missing after `--`: a folder that all machines share.")
    if not (shared or folder.startswith("gs://")):
        raise UsageError(
            f"{flag}{folder}: several machines write there. If it is the same folder on all of them, such as a mounted "
            "disk or bucket, say so with --shared; --first='COMMAND' can mount it."
        )


def check_name(what: str, value: str) -> str:
    """A name as Google Cloud and Kubernetes take it."""
    return _match(what, value, r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", "at most 40 of a-z, 0-9 and -, a letter first")


def check_zone(value: str) -> str:
    """Of TPUs, or the region of a cluster."""
    return _match("zone", value, r"[a-z]+-[a-z]+[0-9]+(-[a-z])?", "one such as us-east5-b")


def check_project(value: str) -> str:
    return _match("project", value, r"([a-z][-a-z0-9.]*:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", "the ID of a project")


def check_bucket(what: str, value: str) -> str:
    pattern = r"gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9](/[-_.=+@A-Za-z0-9]+)*/?"
    return _match(what, value, pattern, "gs://BUCKET/FOLDER").rstrip("/")


def shell_lines(commands: tuple[str, ...]) -> list[str]:
    """Commands of the user's own, each kept apart from the rest of a script."""
    return [shlex.join(["bash", "-c", command]) for command in commands]


def check_tpu(topology: Topology, target: str) -> None:
    if topology.chip.platform != "tpu":
        raise UsageError(f"--topology={topology.name}: --target={target} is for TPUs; for GPUs there is slurm.")


def _match(what: str, value: str, pattern: str, expected: str) -> str:
    if not re.fullmatch(pattern, value):
        raise UsageError(f"--{what}={value}: expected {expected}.")
    return value
