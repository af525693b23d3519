"""Findings are functions of facts: one thing is wrong in each case, and the finding names where and what to do."""

from dataclasses import replace

import pytest

from biomedgpt_jax.doctor.facts import Facts, Folder
from biomedgpt_jax.doctor.findings import (
    Level,
    Needs,
    check_clocks,
    check_devices,
    check_disk,
    check_folder,
    check_loader_memory,
    check_pinned,
    check_same_versions,
    check_shared_folder,
    check_shared_memory,
    findings,
)

HEALTHY = Facts(
    process=0,
    host="host-0",
    versions={"jax": "0.10.2", "biomedgpt_jax": "abc"},
    hardware="tpu",
    platform="tpu",
    device_kind="TPU v5 lite",
    local_devices=4,
    all_devices=12,
    device_error="",
    memory_free=100_000_000_000,
    shared_memory=50_000_000_000,
    workdir=Folder("gs://lab/run", "", 200e6, None),
    cache=Folder("/cache", "", 200e6, 9_000_000_000),
)


def machines(**changes) -> list[Facts]:
    """Three, of which the last is as `changes` say."""
    everyone = [replace(HEALTHY, process=number, host=f"host-{number}") for number in range(3)]
    return [*everyone[:2], replace(everyone[2], **changes)]


def test_healthy_machines_get_no_advice():
    found = findings(machines(), Needs(loader=10_000_000_000, checkpoints=10**12), workers=4)
    wrong = [each for each in found if each.level is not Level.OK and each.what != "pinned versions"]
    assert (wrong, [each.do for each in found if each.level is Level.OK and each.do]) == ([], [])
    assert [each.what for each in found][3:] == [
        "host memory",
        "shared memory",
        "output folder",
        "disk",
        "compile cache",
    ]


@pytest.mark.parametrize(
    ("check", "changes", "level", "found", "do"),
    [
        (
            check_same_versions,
            {"versions": {"jax": "0.10.1", "biomedgpt_jax": "abc"}},
            Level.FAILURE,
            "jax 0.10.1 on process 2 (host-2), elsewhere 0.10.2",
            "launch again",
        ),
        (
            check_same_versions,
            {"versions": {**HEALTHY.versions, "libtpu": "0.0.42"}},
            Level.FAILURE,
            "libtpu 0.0.42 on process 2 (host-2), elsewhere none",
            "same commit",
        ),
        (
            check_devices,
            {"local_devices": 3},
            Level.FAILURE,
            "3 TPU v5 lite on process 2 (host-2), elsewhere 4 TPU v5 lite",
            "chip",
        ),
        (
            check_devices,
            {"platform": "cpu"},
            Level.FAILURE,
            "JAX uses the cpu on process 2 (host-2), which has TPU hardware",
            'pip install "jax[tpu]"',
        ),
        (
            check_devices,
            {"local_devices": 0, "device_error": "The TPU is already in use"},
            Level.FAILURE,
            "none on process 2 (host-2): The TPU is already in use",
            "another process",
        ),
        (
            lambda everyone: check_loader_memory(everyone, 8_000_000_000),
            {"memory_free": 7_000_000_000},
            Level.FAILURE,
            "7.0 GB free for each process, least on process 2 (host-2); reading data takes about 8.0 GB",
            "config.data.workers",
        ),
        (
            lambda everyone: check_shared_memory(everyone, workers=4),
            {"shared_memory": 64 << 20},
            Level.WARNING,
            "0.1 GB free in /dev/shm",
            "--shm-size",
        ),
    ],
    ids=["version", "package missing", "chips", "hardware unused", "devices taken", "memory", "shared memory"],
)
def test_what_is_wrong_on_one_machine_is_found(check, changes, level, found, do):
    finding = check(machines(**changes))
    assert (finding.level, finding.found) == (level, found)
    assert do in finding.do
    assert check(machines()).level is Level.OK


def test_memory_is_shared_by_the_processes_of_a_machine():
    together = [replace(HEALTHY, process=number, memory_free=12_000_000_000) for number in range(2)]
    assert check_loader_memory(together, 6_000_000_001).level is Level.FAILURE
    assert check_loader_memory(together, 6_000_000_000).level is Level.OK


def test_workers_that_do_not_exist_need_no_shared_memory():
    assert check_shared_memory(machines(shared_memory=None), workers=0).level is Level.OK


def test_other_versions_than_tested_are_a_warning():
    finding = check_pinned({"orbax-checkpoint": "0.12.7", "grain": "0.2.18"})
    assert finding.level is Level.WARNING
    assert finding.found == "orbax-checkpoint 0.12.7, expected ==0.12.8"
    assert check_pinned({"grain": "0.2.18"}).level is Level.OK


def test_folders():
    good, slow = Folder("/runs", "", 200e6, 10**10), Folder("/runs", "", 10e6, 10**9)
    broken = Folder("/runs", "PermissionError: no", 0.0, None)
    everyone = machines()
    finding = check_folder("output folder", {0: good, 1: good, 2: broken}, everyone)
    assert (finding.level, finding.found) == (Level.FAILURE, "/runs on process 2 (host-2): PermissionError: no")
    finding = check_folder("output folder", {0: good, 1: slow, 2: good}, everyone)
    assert (finding.level, finding.found) == (Level.WARNING, "/runs: 10 MB/s, all processes at once")
    finding = check_disk({0: good, 1: slow}, 2 * 10**9)
    assert (finding.level, finding.found) == (Level.FAILURE, "1.0 GB free; checkpoints take about 2.0 GB")
    assert check_disk({0: good, 1: slow}, 10**9).level is Level.OK
    finding = check_shared_folder("/runs", [True, True, False], everyone)
    assert (finding.level, finding.found) == (
        Level.FAILURE,
        "/runs on process 2 (host-2) is another folder than on process 0",
    )


@pytest.mark.parametrize(
    ("clock", "level"), [(100.5, Level.OK), (98.0, Level.WARNING), (500.0, Level.FAILURE)], ids=["ok", "late", "early"]
)
def test_clocks(clock, level):
    finding = check_clocks([100.0, 100.1, clock], machines())
    assert finding.level is level
    if level is not Level.OK:
        assert "process 2 (host-2)" in finding.found
        assert "timesyncd" in finding.do
