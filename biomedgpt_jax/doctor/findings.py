"""What the facts of all processes mean for a run: each finding says what was seen, and what to do."""

import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from packaging.requirements import Requirement

from biomedgpt_jax.doctor.facts import Facts, Folder

GB = 1e9
_PLATFORMS = {"cuda": "gpu", "tpu": "tpu"}
_EXTRAS = {"cuda": "jax[cuda12]", "tpu": "jax[tpu]"}
_SLOW = 50e6  # bytes per second of a folder for checkpoints
_SKEW_WARNING, _SKEW_FAILURE = 1.0, 300.0  # seconds; Google refuses tokens from clocks that are minutes off


class Level(Enum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"  # a run would fail


@dataclass(frozen=True)
class Finding:
    level: Level
    what: str
    found: str
    do: str = ""


@dataclass(frozen=True)
class Needs:
    """Bytes that a run takes on each machine; None where no configuration was given."""

    loader: int | None
    checkpoints: int | None


def findings(everyone: Sequence[Facts], needs: Needs, *, workers: int) -> list[Finding]:
    """All of them, in the order in which a reader wants them. `workers` are the data loader's processes."""
    found = [check_same_versions(everyone), check_pinned(everyone[0].versions), check_devices(everyone)]
    found += [check_loader_memory(everyone, needs.loader), check_shared_memory(everyone, workers)]
    if everyone[0].workdir:
        folders = {each.process: each.workdir for each in everyone if each.workdir}
        found += [check_folder("output folder", folders, everyone), check_disk(folders, needs.checkpoints)]
    if everyone[0].cache:
        caches = {each.process: each.cache for each in everyone if each.cache}
        found.append(check_folder("compile cache", caches, everyone))
    return found


def check_same_versions(everyone: Sequence[Facts]) -> Finding:
    """On all machines alike: other versions compile other programs, and then wait for each other for ever."""
    names = sorted({name for each in everyone for name in each.versions})
    others = []
    for name in names:
        votes = Counter(each.versions.get(name, "none") for each in everyone)
        usual = votes.most_common(1)[0][0]
        odd = [each for each in everyone if each.versions.get(name, "none") != usual]
        if odd:
            others.append(f"{name} {odd[0].versions.get(name, 'none')} on {_places(odd)}, elsewhere {usual}")
    if others:
        return Finding(
            Level.FAILURE, "versions", "; ".join(others), "Install the same commit on all of them: launch again."
        )
    shown = ("jax", "jaxlib", "flax", "libtpu", "jax-cuda12-plugin", "NVIDIA driver", "python", "biomedgpt_jax")
    have = everyone[0].versions
    text = ", ".join(f"{name} {have[name]}" for name in shown if name in have)
    return Finding(Level.OK, "versions", f"{text}{' on all' if len(everyone) > 1 else ''}")


def check_pinned(versions: dict[str, str]) -> Finding:
    """That what is installed is what this package was tested with."""
    wrong = []
    for line in importlib.metadata.requires("biomedgpt-jax") or []:
        requirement = Requirement(line)
        if requirement.name in versions and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found = versions[requirement.name]
            if not requirement.specifier.contains(found, prereleases=True):
                wrong.append(f"{requirement.name} {found}, expected {requirement.specifier}")
    if wrong:
        return Finding(Level.WARNING, "pinned versions", "; ".join(wrong), "pip install -r requirements.txt")
    return Finding(Level.OK, "pinned versions", "as required")


def check_devices(everyone: Sequence[Facts]) -> Finding:
    """That JAX uses the accelerators that are there, all alike."""
    broken = [each for each in everyone if each.device_error]
    if broken:
        return Finding(
            Level.FAILURE,
            "devices",
            f"none on {_places(broken)}: {broken[0].device_error}",
            "Does another process hold them? Stop it; else install the JAX of this machine: bash launch/setup.sh",
        )
    unused = [each for each in everyone if _PLATFORMS.get(each.hardware, each.platform) != each.platform]
    if unused:
        hardware = unused[0].hardware
        return Finding(
            Level.FAILURE,
            "devices",
            f"JAX uses the {unused[0].platform} on {_places(unused)}, which has {hardware.upper()} hardware",
            f'pip install "{_EXTRAS[hardware]}" -c requirements.txt, and unset JAX_PLATFORMS',
        )
    kinds = Counter((each.device_kind, each.local_devices) for each in everyone)
    (kind, count), _ = kinds.most_common(1)[0]
    odd = [each for each in everyone if (each.device_kind, each.local_devices) != (kind, count)]
    if odd:
        return Finding(
            Level.FAILURE,
            "devices",
            f"{odd[0].local_devices} {odd[0].device_kind} on {_places(odd)}, elsewhere {count} {kind}",
            "Every machine must bring the same; look for a broken chip or another process there.",
        )
    total = everyone[0].all_devices
    return Finding(Level.OK, "devices", f"{total} {kind}, {count} in each of {len(everyone)} processes")


def check_loader_memory(everyone: Sequence[Facts], need: int | None) -> Finding:
    """Memory of the hosts against what the processes there that read data take."""
    sharing = Counter(each.host for each in everyone)
    least = min(everyone, key=lambda each: each.memory_free / sharing[each.host])
    has = least.memory_free / sharing[least.host]
    found = f"{_gb(has)} free for each process, least on {_places([least])}"
    if need is None:
        return Finding(Level.OK, "host memory", f"{found}; --config says what a run needs")
    text = f"{found}; reading data takes about {_gb(need)}"
    if has < need:
        do = "Lower config.data.workers, or data.row_tokens and data.image_slots, or use larger machines."
        return Finding(Level.FAILURE, "host memory", text, do)
    return Finding(Level.OK, "host memory", text)


def check_shared_memory(everyone: Sequence[Facts], workers: int) -> Finding:
    """Processes that read data pass batches on through /dev/shm."""
    sizes = [each.shared_memory or 0 for each in everyone]
    found = f"{_gb(min(sizes))} free in /dev/shm"
    if workers and min(sizes) < 1 * GB:
        do = "Give the container more (docker run --shm-size=16g), or set --config.data.workers=0."
        return Finding(Level.WARNING, "shared memory", found, do)
    return Finding(Level.OK, "shared memory", found)


def check_folder(what: str, folders: dict[int, Folder], everyone: Sequence[Facts]) -> Finding:
    """That all can write there, and how fast."""
    path = next(iter(folders.values())).path
    broken = [number for number, folder in folders.items() if folder.error]
    if broken:
        places = _places([each for each in everyone if each.process in broken])
        return Finding(
            Level.FAILURE,
            what,
            f"{path} on {places}: {folders[broken[0]].error}",
            "Choose a folder that every machine can write; for a bucket see that the machines' account may.",
        )
    speed = min(folder.write_speed for folder in folders.values())
    found = f"{path}: {speed / 1e6:.0f} MB/s, all processes at once"
    if what == "output folder" and speed < _SLOW:
        return Finding(Level.WARNING, what, found, "Saving will take long; use a faster disk or save less often.")
    return Finding(Level.OK, what, found if what == "output folder" else path)


def check_disk(folders: dict[int, Folder], need: int | None) -> Finding:
    """Room for the checkpoints that are kept."""
    free = [folder.free for folder in folders.values() if folder.free is not None]
    if not free:
        return Finding(Level.OK, "disk", "a bucket, or nothing to be said")
    found = f"{_gb(min(free))} free"
    if need is None:
        return Finding(Level.OK, "disk", f"{found}; --config says what a run needs")
    text = f"{found}; checkpoints take about {_gb(need)}"
    if min(free) < need:
        do = "Choose another disk or gs://..., or keep fewer checkpoints: --config.train.keep=1."
        return Finding(Level.FAILURE, "disk", text, do)
    return Finding(Level.OK, "disk", text)


def check_shared_folder(path: str, seen: Sequence[bool], everyone: Sequence[Facts]) -> Finding:
    """`seen` says, by process, whether it found there what process 0 wrote."""
    blind = [each for each in everyone if not seen[each.process]]
    if blind:
        return Finding(
            Level.FAILURE,
            "one folder for all",
            f"{path} on {_places(blind)} is another folder than on process 0",
            "Use gs://BUCKET/FOLDER, or a disk that is mounted on all machines.",
        )
    return Finding(Level.OK, "one folder for all", f"{path} is the same on {len(everyone)} processes")


def check_clocks(seconds: Sequence[float], everyone: Sequence[Facts]) -> Finding:
    """`seconds` are the clocks of all processes, read at one moment."""
    middle = sorted(seconds)[len(seconds) // 2]
    worst = max(range(len(seconds)), key=lambda number: abs(seconds[number] - middle))
    skew = abs(seconds[worst] - middle)
    found = f"at most {skew:.3f} s apart from the middle one, on {_places([everyone[worst]])}"
    if skew < _SKEW_WARNING:
        return Finding(Level.OK, "clocks", found)
    level = Level.WARNING if skew < _SKEW_FAILURE else Level.FAILURE
    return Finding(level, "clocks", found, "Set the clock there: sudo systemctl restart systemd-timesyncd (or chrony)")


def _places(some: Sequence[Facts]) -> str:
    shown = ", ".join(f"process {each.process} ({each.host})" for each in some[:3])
    return shown + (f" and {len(some) - 3} more" if len(some) > 3 else "")


def _gb(size: int | float) -> str:
    return f"{size / GB:.1f} GB"
