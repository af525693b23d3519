"""What would be run on machines that are not here: plans are data, compared whole, and their files are checked."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.topology import parse
from biomedgpt_jax.launch.gcloud import Tpu, queued, tpu_vm
from biomedgpt_jax.launch.gke import Cluster, gke, jobset, manifest
from biomedgpt_jax.launch.job import (
    Job,
    check_bucket,
    check_job,
    check_name,
    check_project,
    check_zone,
)
from biomedgpt_jax.launch.plan import Plan, one_line, script
from biomedgpt_jax.launch.slurm import slurm

TRAIN = Job("scan", ("train", "--workdir=gs://lab/run", "--config=configs/a.py:data=it's;x"), retries=3)
CLUSTER = Cluster("lab", "repo/image:1", None)


def tpu(topology: str, **changes) -> Tpu:
    facts = {"zone": "us-west4-a", "project": None, "spot": False, "shared": False, "first": ()}
    return Tpu(parse(topology), **{**facts, **changes})


def lines(plan: Plan) -> list[str]:
    return [" ".join(command.words) for command in plan.commands]


def test_a_pod_is_made_filled_and_started():
    plan = tpu_vm(TRAIN, tpu("v5e-64", spot=True, project="my-lab", first=("mount /mnt && cd 'a b' # done",)), "runs/x")
    assert plan.files == ()
    at = "--zone=us-west4-a --project=my-lab"
    folder, archive, make, copy, install, start = lines(plan)
    assert (folder, archive) == (
        "mkdir -p runs/x",
        "git archive --format=tar.gz --output=runs/x/biomedgpt.tar.gz HEAD",
    )
    assert make == (
        f"gcloud compute tpus tpu-vm create scan {at} --accelerator-type=v5litepod-64 "
        "--version=v2-alpha-tpuv5-lite --spot"
    )
    assert " ".join(plan.commands[2].unless) == f"gcloud compute tpus tpu-vm describe scan {at}"
    assert copy == f"gcloud compute tpus tpu-vm scp runs/x/biomedgpt.tar.gz scan:biomedgpt.tar.gz {at} --worker=all"
    ssh = f"gcloud compute tpus tpu-vm ssh scan {at} --worker=all --command="
    assert install.startswith(ssh)
    assert "bash -c 'mount /mnt && cd '\"'\"'a b'\"'\"' # done' && bash launch/setup.sh" in install
    assert start.startswith(ssh)
    assert "export JAX_COORDINATOR_PORT=8476" in start
    assert start.endswith("--coordinator=auto >>../scan.log 2>&1 </dev/null & echo $! >../biomedgpt.pid; }")


def test_one_machine_joins_nobody_and_may_write_where_it_likes():
    plan = tpu_vm(Job("a", ("train", "--workdir=runs/a"), 3), tpu("v6e-8"), "runs/x")
    assert "--coordinator" not in script(plan)
    assert "--accelerator-type=v6e-8" in script(plan)


@pytest.mark.parametrize(("topology", "google"), [("v5p-32", "v5p-32"), ("v4-8", "v4-8"), ("v5e-256", "v5litepod-256")])
def test_google_names(topology, google):
    assert tpu(topology).accelerator_type == google


def test_the_remote_commands_do_what_they_say(tmp_path):
    """The part that the machines run, run here with a script in the place of launch/local.sh."""
    checkout = tmp_path / "source"
    (checkout / "launch").mkdir(parents=True)
    (checkout / "launch" / "setup.sh").write_text("touch installed\n")
    (checkout / "launch" / "local.sh").write_text('printf "%s\\n" "$JAX_COORDINATOR_PORT" "$@"; exec sleep 30\n')
    subprocess.run(["tar", "-czf", tmp_path / "biomedgpt.tar.gz", "-C", checkout, "."], check=True)
    plan = tpu_vm(TRAIN, tpu("v5e-64"), "runs/x")
    install, start = (command.words[-1].removeprefix("--command=") for command in plan.commands[-2:])
    stop = next(command for command in plan.later if "stop" in command.why).words[-1].removeprefix("--command=")

    def machine(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=20)

    assert machine(install).returncode == 0
    assert (tmp_path / "biomedgpt" / "installed").is_file()
    assert machine(start).returncode == 0
    while (log := tmp_path / "scan.log").read_text().count("\n") < 7:
        pass
    assert log.read_text().splitlines() == ["8476", "--retries=3", "--", *TRAIN.verb, "--coordinator=auto"]
    again = machine(install)
    assert again.returncode == 1
    assert "A job is running here" in again.stderr
    assert machine(stop).returncode == 0
    while machine(install).returncode:  # the process needs a moment to end
        pass


def test_queued_machines_start_by_themselves():
    plan = queued(TRAIN, tpu("2xv5e-256", first=("mount /mnt",)), "gs://lab/code", "runs/x")
    assert lines(plan)[2:] == [
        "gcloud storage cp runs/x/biomedgpt.tar.gz gs://lab/code/scan.tar.gz",
        "gcloud compute tpus queued-resources create scan --zone=us-west4-a --accelerator-type=v5litepod-256 "
        "--runtime-version=v2-alpha-tpuv5-lite --node-count=2 --node-prefix=scan "
        "--metadata-from-file=startup-script=runs/x/startup.sh",
    ]
    (startup,) = plan.files
    assert startup.path == "runs/x/startup.sh"
    ours = startup.text.splitlines()
    assert ours[0] == "#!/usr/bin/env bash"
    assert ours[-3:] == [
        "bash -c 'mount /mnt'",
        "export JAX_COORDINATOR_PORT=8476",
        "exec bash launch/local.sh --retries=3 -- train --workdir=gs://lab/run "
        "'--config=configs/a.py:data=it'\"'\"'s;x' --coordinator=auto",
    ]
    assert "--node-id=scan" in script(queued(TRAIN, tpu("v5e-256"), "gs://lab/code", "runs/x"))


def test_xpk_is_run_by_uvx():
    (command,) = gke(TRAIN, tpu("2xv6e-64"), CLUSTER, "runs/x").commands
    assert command.words == (
        *("uvx", "xpk==1.16.0", "workload", "create", "--workload=scan", "--cluster=lab", "--zone=us-west4-a"),
        *("--tpu-type=v6e-64", "--num-slices=2", "--docker-image=repo/image:1", "--env=JAX_COORDINATOR_PORT=8476"),
        *("--max-restarts=100", "--restart-on-exit-codes=75", "--termination-grace-period-seconds=300"),
        "--command=biomedgpt train --workdir=gs://lab/run '--config=configs/a.py:data=it'\"'\"'s;x' --coordinator=auto",
    )
    built = lines(gke(TRAIN, tpu("v6e-64"), Cluster("lab", None, "disk"), "runs/x"))
    assert built[2] == "tar -xzf runs/x/biomedgpt.tar.gz -C runs/x/checkout"
    assert "--base-docker-image=python:3.12 --script-dir=runs/x/checkout --storage=disk" in built[3]
    assert "--command=source launch/setup.sh && exec biomedgpt train" in built[3]


def test_jobset_is_valid():
    """The job against the schemas of Kubernetes, the set around it against the JobSet types of Kubeflow's package."""
    validate = pytest.importorskip("kubernetes_validate")
    models = pytest.importorskip("kubeflow_trainer_api.models")
    mounted = replace(CLUSTER, storage="disk:/mnt/lab")
    written = json.loads(jobset(TRAIN, tpu("2xv6e-64", spot=True), mounted, "runs/x").files[0].text)
    assert written == manifest(TRAIN, tpu("2xv6e-64", spot=True), mounted)
    # Kubeflow's types drop what they do not know: what comes back must be all that went in.
    assert models.JobsetV1alpha2JobSet.from_dict(written).to_dict() == written
    (slices,) = written["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "scan"}, "spec": slices["template"]["spec"]}
    validate.validate(job, "1.33", strict=True)
    assert (slices["replicas"], job["spec"]["completions"]) == (2, 16)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": "4"}
    assert pod["containers"][0]["volumeMounts"][1] == {"name": "storage", "mountPath": "/mnt/lab"}
    assert pod["volumes"][1]["persistentVolumeClaim"] == {"claimName": "disk"}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "8x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["containers"][0]["command"] == ["biomedgpt", *TRAIN.verb, "--coordinator=auto"]
    assert written["spec"]["failurePolicy"]["maxRestarts"] == 3


def test_only_a_preemption_restarts_a_jobset_without_limit():
    spec = manifest(TRAIN, tpu("v6e-64"), CLUSTER)["spec"]
    assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    rules = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert [rule.get("onExitCodes", {}).get("values") for rule in rules] == [[75], None]


SRUN = re.compile(r"^srun .*$", re.MULTILINE)


def test_slurm_runs_one_task_for_each_gpu():
    job = Job("scan", ("train", "--workdir=runs/a b"), 3)
    plan = slurm(job, parse("h100-16"), ["--partition=gpu"], "runs/x", shared=True)
    assert plan.commands[0].words == ("sbatch", "--partition=gpu", "runs/x/job.sh")
    text = plan.files[0].text
    for line in ("nodes=2", "gpus-per-node=8", "ntasks-per-node=8", "requeue", "signal=TERM@300", "open-mode=append"):
        assert f"\n#SBATCH --{line}\n" in text
    assert SRUN.findall(text) == [
        "srun --kill-on-bad-exit=0 --wait=150 biomedgpt train '--workdir=runs/a b' --coordinator=auto || code=$?"
    ]


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
def test_slurm_queues_a_preempted_run_again(tmp_path, code, requeued):
    text = slurm(TRAIN, parse("h100-8"), [], "runs/x", shared=True).files[0].text
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "setup.sh").write_text('set -euo pipefail\nexport PATH="$PWD/bin:$PATH"\n')
    (tmp_path / "bin").mkdir()
    for name, body in (("srun", f"exit {code}"), ("scontrol", 'echo "$@" >scontrol.txt')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(text)
    ended = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7"})
    assert ended.returncode == (0 if requeued else code)
    asked = tmp_path / "scontrol.txt"
    assert (asked.read_text() if asked.exists() else None) == ("requeue 7\n" if requeued else None)


def refused(text: str):
    return pytest.raises(UsageError, match=text)


def test_what_cannot_run_is_refused():
    alone = Job("scan", ("train", "--workdir=runs/a"), 3)
    with refused("--workdir=runs/a: several machines write there.*--shared"):
        tpu_vm(alone, tpu("v5e-64"), "x")
    assert tpu_vm(alone, tpu("v5e-64", shared=True), "x").commands
    with refused("--workdir is missing"):
        queued(Job("a", ("train",), 3), tpu("v5e-64"), "gs://lab/c", "x")
    with refused("--out=scores/a: several machines"):
        gke(Job("a", ("eval", "--out=scores/a"), 3), tpu("v5e-64"), CLUSTER, "x")
    with refused("`export` runs in one process"):
        slurm(Job("a", ("export",), 3), parse("h100-8"), [], "x", shared=True)
    with refused("gcloud's TPU interface makes v4, v5e, v5p, v6e"):
        tpu_vm(TRAIN, tpu("tpu7x-8"), "x")
    with refused("several slices are --target=queued"):
        tpu_vm(TRAIN, tpu("2xv5e-64"), "x")
    with refused("--target=slurm is for GPUs"):
        slurm(TRAIN, parse("v5e-64"), [], "x", shared=True)
    with refused("is for TPUs"):
        gke(TRAIN, tpu("h100-8"), CLUSTER, "x")
    with refused("--image is missing"):
        jobset(TRAIN, tpu("v5e-64"), Cluster("lab", None, "disk"), "x")
    with refused("--storage=disk: expected CLAIM:/PATH"):
        jobset(TRAIN, tpu("v5e-64"), replace(CLUSTER, storage="disk"), "x")
    with refused("--first: not with --target=gke"):
        gke(TRAIN, tpu("v5e-64", first=("mount /mnt",)), CLUSTER, "x")
    with refused("expected an option of sbatch"):
        slurm(TRAIN, parse("h100-8"), ["--wrap=a\nb"], "x", shared=True)


@pytest.mark.parametrize(
    "check",
    [
        lambda text: check_name("name", text),
        check_zone,
        check_project,
        lambda text: check_bucket("staging", text),
    ],
    ids=["name", "zone", "project", "bucket"],
)
@pytest.mark.parametrize("text", ["", "-a", "--all", "a b", "$(date)", "A", "a;b", "gs://", "gs://lab/*", "a\nb"])
def test_names_that_mean_something_else_are_refused(check, text):
    with pytest.raises(UsageError, match="expected"):
        check(text)


def test_names_that_are_fine():
    assert check_name("name", "a-1") and check_zone("us-east5-b") and check_project("example.com:my-lab")
    assert check_bucket("staging", "gs://lab_1/a b".replace(" ", "-") + "/") == "gs://lab_1/a-b"
    with refused("--retries=-1"):
        check_job(Job("a", ("train",), -1))


def test_gcloud_takes_these_flags(tmp_path):
    """By gcloud's own check of a command line, which asks nobody."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    plans = [
        tpu_vm(TRAIN, tpu("v5e-64", spot=True, project="my-lab"), "runs/x"),
        queued(TRAIN, tpu("2xv5e-64"), "gs://lab/code", "runs/x"),
        jobset(TRAIN, tpu("v5e-64"), CLUSTER, "runs/x"),
    ]
    commands = [command for plan in plans for command in (*plan.commands, *plan.later)]
    asked = [" ".join(one_line(each.words).split(" \\\n    ")) for each in commands if each.words[0] == "gcloud"]
    (tmp_path / "commands.json").write_text(json.dumps([{"command_string": each} for each in asked]))
    checked = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'commands.json'}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "CLOUDSDK_CONFIG": str(tmp_path / "empty"), "HOME": str(tmp_path)},
    )
    if checked.returncode:
        pytest.skip("this gcloud has no check of command lines")
    results = json.loads(checked.stdout)
    assert len(results) == len(asked) >= 12
    assert [result["error_message"] for result in results if not result["success"]] == []
