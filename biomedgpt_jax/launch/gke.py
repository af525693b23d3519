"""TPU slices in a GKE cluster: through xpk, or by a JobSet of our own and kubectl."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.core.errors import EXIT_RESTART, UsageError
from biomedgpt_jax.launch.gcloud import Tpu, archive_commands
from biomedgpt_jax.launch.job import Job, check_many, check_name, check_tpu
from biomedgpt_jax.launch.plan import COORDINATOR_PORT, Command, File, Plan

XPK = "xpk==1.16.0"
_BASE_IMAGE = "python:3.12"
_LABELS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
_SAVE_SECONDS = 300  # from SIGTERM to SIGKILL
# xpk counts preemptions and deaths by signal alike; it fails at once on exit codes that it was not told of.
_XPK_RESTARTS = 100


@dataclass(frozen=True)
class Cluster:
    name: str
    image: str | None  # with the package installed; None: xpk copies the checkout into a plain Python image
    storage: str | None  # a disk for all pods: its name in xpk, or CLAIM:PATH of a volume claim for `jobset`


def gke(job: Job, tpu: Tpu, cluster: Cluster, folder: str) -> Plan:
    """A workload of xpk, which runs by uvx and is installed nowhere.

    Raises:
        UsageError: not a TPU; output where not all machines can write.
    """
    many = _check(job, tpu, "gke")
    command = shlex.join(job.distributed if many else job.program)
    archive, checkout = f"{folder}/biomedgpt.tar.gz", f"{folder}/checkout"
    if cluster.image is None:
        command = f"source launch/setup.sh && exec {command}"
        image = (f"--base-docker-image={_BASE_IMAGE}", f"--script-dir={checkout}")
        unpack = Command("Unpacks it, for xpk to put into the image.", ("tar", "-xzf", archive, "-C", checkout))
        code = (*archive_commands(archive, checkout), unpack)
    else:
        image, code = (f"--docker-image={cluster.image}",), ()
    xpk = ("uvx", XPK, "workload")
    where = (f"--cluster={cluster.name}", *tpu.where)
    create = (
        *(*xpk, "create", f"--workload={job.name}", *where, f"--tpu-type={tpu.accelerator_type}"),
        f"--num-slices={tpu.topology.slices}",
        *image,
        *((f"--storage={cluster.storage}",) if cluster.storage else ()),
        f"--env=JAX_COORDINATOR_PORT={COORDINATOR_PORT}",
        f"--max-restarts={_XPK_RESTARTS}",
        f"--restart-on-exit-codes={EXIT_RESTART}",
        f"--termination-grace-period-seconds={_SAVE_SECONDS}",
        f"--command={command}",
    )
    return Plan(
        files=(),
        commands=(*code, Command("The workload.", create)),
        later=(
            Command("see it", (*xpk, "list", *where)),
            Command("watch it", _logs(job)),
            Command("stop it", (*xpk, "delete", f"--workload={job.name}", *where)),
        ),
    )


def jobset(job: Job, tpu: Tpu, cluster: Cluster, folder: str) -> Plan:
    """The manifest of a JobSet, and kubectl to hand it in.

    Raises:
        UsageError: no image; not a TPU; output where not all machines can write.
    """
    _check(job, tpu, "jobset")
    if cluster.image is None:
        raise UsageError("--image is missing: a container image with this package installed, for --target=jobset.")
    path = f"{folder}/jobset.json"
    get = ("gcloud", "container", "clusters", "get-credentials", cluster.name, f"--location={tpu.zone}")
    return Plan(
        files=(File(path, json.dumps(manifest(job, tpu, cluster), indent=1) + "\n"),),
        commands=(
            Command("Lets kubectl speak to the cluster.", (*get, *tpu.where[1:])),
            Command("Hands the job in.", ("kubectl", "apply", f"--filename={path}")),
        ),
        later=(
            Command("see it", ("kubectl", "get", "jobset", job.name)),
            Command("watch it", _logs(job)),
            Command("stop it; also before the same launch again", ("kubectl", "delete", "jobset", job.name)),
        ),
    )


def manifest(job: Job, tpu: Tpu, cluster: Cluster) -> dict[str, Any]:
    """A JobSet: one job for each slice, one pod for each machine.

    A preempted pod, or one that ends as preempted, starts the whole set again without limit; any other failure does
    so `job.retries` times.
    """
    topology = tpu.topology
    hosts = topology.hosts // topology.slices
    preempted = [
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [EXIT_RESTART]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    again = {
        "name": "preempted",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            # One slice is one pool of nodes.
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": job.retries, "rules": [again]},
            "replicatedJobs": [
                {
                    "name": "slice",
                    "replicas": topology.slices,
                    "template": {
                        "spec": {
                            "parallelism": hosts,
                            "completions": hosts,
                            "completionMode": "Indexed",
                            "backoffLimit": 0,
                            "podFailurePolicy": {"rules": preempted},
                            "template": {"spec": _pod(job, tpu, cluster, topology.chips // hosts)},
                        }
                    },
                }
            ],
        },
    }


def _pod(job: Job, tpu: Tpu, cluster: Cluster, chips: int) -> dict[str, Any]:
    topology = tpu.topology
    selector = {
        "cloud.google.com/gke-tpu-accelerator": _LABELS[topology.chip.name],
        "cloud.google.com/gke-tpu-topology": "x".join(map(str, topology.grid)),
    }
    # The workers that read data pass batches on through shared memory.
    volumes: list[dict[str, Any]] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    if cluster.storage:
        claim, path = _claim(cluster.storage)
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "storage", "mountPath": path})
    if tpu.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _SAVE_SECONDS,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": selector,
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [
            {
                "name": "main",
                "image": cluster.image,
                "command": list(job.distributed if topology.hosts > 1 else job.program),
                "env": [{"name": "JAX_COORDINATOR_PORT", "value": str(COORDINATOR_PORT)}],
                "ports": [{"containerPort": port, "protocol": "TCP"} for port in (8471, COORDINATOR_PORT)],
                "resources": {"limits": {"google.com/tpu": str(chips)}},
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _claim(storage: str) -> tuple[str, str]:
    claim, colon, path = storage.partition(":")
    if not colon or not path.startswith("/"):
        raise UsageError(f"--storage={storage}: expected CLAIM:/PATH, a volume claim and where pods mount it.")
    return check_name("storage", claim), path


def _check(job: Job, tpu: Tpu, target: str) -> bool:
    """Whether there are many machines."""
    check_tpu(tpu.topology, target)
    if tpu.first:
        raise UsageError(f"--first: not with --target={target}; put it into the image.")
    if tpu.topology.hosts > 1:
        check_many(job, shared=tpu.shared)
    return tpu.topology.hosts > 1


def _logs(job: Job) -> tuple[str, ...]:
    return "kubectl", "logs", "--follow", f"--selector=jobset.sigs.k8s.io/jobset-name={job.name}", "--prefix"
