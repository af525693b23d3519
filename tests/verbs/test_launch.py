"""`biomedgpt launch` in a checkout of its own, with a gcloud that only writes down how it was called."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, assert_refused, biomedgpt, config

GCLOUD = """#!{python} -S
import json, os, sys
with open(os.environ["CALLS"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("FAILS_ON") in sys.argv))
"""
POD = ("launch", "--target=tpu-pod", "--topology=v5e-64", "--zone=us-west4-a", "--name=scan", "--shared")
TRAIN = ("--", "train", config("smoke.py:stage=1,data=it's"), "--workdir=/mnt/run", "--config.train.epochs=1")


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A committed checkout, in which the test stands; `calls` beside it is what gcloud was asked."""
    folder = tmp_path / "checkout"
    (folder / "launch").mkdir(parents=True)
    (folder / "launch" / "setup.sh").write_text("")
    (folder / ".gitignore").write_text("/runs/\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "a"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    (tmp_path / "bin").mkdir()
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.write_text(GCLOUD.format(python=sys.executable))
    gcloud.chmod(0o755)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAILS_ON", "describe")  # there is no such TPU yet
    return folder


def calls(checkout: Path) -> list[list[str]]:
    file = checkout.parent / "calls"
    asked = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return asked


def test_a_dry_run_is_the_launch_as_a_script(checkout):
    dry = biomedgpt(*POD, "--dry-run", *TRAIN)
    assert dry.code == 0, dry
    assert calls(checkout) == []
    assert not (checkout / "runs").exists()
    assert biomedgpt(*POD, *TRAIN).code == 0
    launched = calls(checkout)
    subprocess.run(["bash", "-c", dry.out], check=True, capture_output=True)
    assert calls(checkout) == launched
    assert [asked[3] for asked in launched] == ["describe", "create", "scp", "ssh", "ssh"]
    assert launched[-1][-1].count("'\"'\"'s") == 1  # the quote in the data's name
    archive = subprocess.run(["tar", "-tzf", "runs/launch/scan/biomedgpt.tar.gz"], capture_output=True, text=True)
    assert "launch/setup.sh" in archive.stdout.splitlines()


def test_a_tpu_that_is_there_is_not_made_again(checkout, monkeypatch):
    monkeypatch.setenv("FAILS_ON", "")
    assert biomedgpt(*POD, *TRAIN).code == 0
    assert [asked[3] for asked in calls(checkout)] == ["describe", "scp", "ssh", "ssh"]


def test_a_failing_command_ends_the_launch(checkout, monkeypatch):
    monkeypatch.setenv("FAILS_ON", "scp")
    assert_refused(biomedgpt(*POD, *TRAIN), 1, "`gcloud` failed with exit code 1", "same launch again")
    assert [asked[3] for asked in calls(checkout)] == ["describe", "scp"]
    slurm = ("launch", "--target=slurm", "--topology=h100-8", *TRAIN)
    assert_refused(biomedgpt(*slurm), 1, "sbatch is not installed here")


def test_what_is_not_committed_does_not_go_along_silently(checkout):
    (checkout / "new.py").write_text("")
    assert_refused(biomedgpt(*POD, *TRAIN), 2, "Not committed", "new.py")
    dry = biomedgpt(*POD, "--dry-run", *TRAIN)
    assert dry.code == 0
    assert calls(checkout) == []


def test_mistakes_are_found_here_and_not_on_the_pod(checkout, monkeypatch):
    assert_refused(biomedgpt(*POD, *TRAIN, "--config.train.epoch=1"), 2, "config.train.epoch", "epochs")
    assert_refused(biomedgpt(*POD, *TRAIN, "--workdir=gs://lab/run"), 2, "--workdir=gs://lab/run: expected a path")
    assert_refused(biomedgpt(*POD, "--", "trian"), 2, "'trian'", "Did you mean 'train'?")
    assert_refused(biomedgpt(*POD), 2, "What is to run is missing")
    assert_refused(biomedgpt("launch", *TRAIN), 2, "--target is missing")
    assert_refused(biomedgpt("launch", "--target=tpu-vm", *POD[2:], *TRAIN), 2, "16 machines", "--target=tpu-pod")
    assert_refused(biomedgpt(*POD, *TRAIN, "--process=1"), 2, "the launcher sets this itself")
    assert_refused(biomedgpt("launch", "--target=local", "--processes=0", *TRAIN), 2, "--processes=0")
    assert_refused(biomedgpt("ledger", *TRAIN), 2, "Not a flag: 'train'")
    monkeypatch.chdir(checkout.parent)
    assert_refused(biomedgpt(*POD, *TRAIN), 2, "in the folder of the checkout")
    assert calls(checkout) == []


def test_the_page_shows_what_is_printed(checkout):
    """The dry run of docs/pod.md, called as written there."""
    page = (ROOT / "docs" / "pod.md").read_text()
    call, printed = re.findall(r"```bash\n(.*?)\n```", page, re.DOTALL)[:2]
    (checkout / "configs").symlink_to(ROOT / "configs")
    words = shlex.split(call.partition("bash launch/tpu_pod.sh")[2].replace("\\\n", " "))
    called = biomedgpt("launch", "--target=tpu-pod", *words)
    assert called.code == 0, called
    assert called.out.strip() == printed
