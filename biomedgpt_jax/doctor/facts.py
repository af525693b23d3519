"""What one process sees of its machine. Facts are plain values, which travel between machines as JSON."""

import glob
import hashlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import jax
from etils import epath

PACKAGE = Path(__file__).parents[1]
_PACKAGES = (
    *("jax", "jaxlib", "flax", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "optax", "orbax-checkpoint"),
    *("grain", "numpy", "qwix"),
)
_GOOGLE = "0x1ae0"  # Google's PCI vendor number: a TPU
# ImportError: of what reads buckets; RuntimeError: how it says that it may not.
_REFUSALS = OSError, RuntimeError, ImportError, ValueError
PROBE_BYTES = 64 << 20


@dataclass(frozen=True)
class Folder:
    """What came of writing there; `error` is empty where it worked."""

    path: str
    error: str
    write_speed: float  # bytes per second
    free: int | None  # bytes; None: a bucket


@dataclass(frozen=True)
class Facts:
    """Of one process. Sizes in bytes."""

    process: int
    host: str
    versions: dict[str, str]  # ours is a hash of its files
    hardware: str  # "cuda", "tpu" or "cpu": what is in the machine
    platform: str  # what JAX uses
    device_kind: str
    local_devices: int
    all_devices: int
    device_error: str
    memory_free: int
    shared_memory: int | None  # of /dev/shm; None: there is none
    workdir: Folder | None
    cache: Folder | None


def gather_facts(workdir: str | None, cache: str | None) -> Facts:
    """Looks at everything; the folders must be there."""
    devices, device_error = _devices()
    return Facts(
        process=0,  # said by whoever gathers them
        host=socket.gethostname(),
        versions=_versions(),
        hardware=_hardware(),
        platform=platform(),
        device_kind=devices[0].device_kind if devices else "",
        local_devices=len(devices),
        all_devices=jax.device_count() if devices else 0,
        device_error=device_error,
        memory_free=_memory_free(),
        shared_memory=shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None,
        workdir=probe_folder(workdir, PROBE_BYTES) if workdir else None,
        cache=probe_folder(cache, 1 << 10) if cache else None,
    )


def platform() -> str:
    """What JAX uses; "" where it finds no devices."""
    devices, _ = _devices()
    return devices[0].platform if devices else ""


def probe_folder(path: str, size: int) -> Folder:
    """Writes a file of `size` bytes in a folder that is there, reads it back and removes it."""
    file = epath.Path(path) / f".doctor-{socket.gethostname()}-{os.getpid()}"
    content = os.urandom(min(size, 1 << 20)) * max(1, size >> 20)
    try:
        begun = monotonic()
        _write(file, content)
        seconds = monotonic() - begun
        error = "" if file.read_bytes() == content else "what is read is not what was written"
        file.unlink()
        return Folder(path, error, len(content) / seconds, None if _in_bucket(path) else shutil.disk_usage(path).free)
    except _REFUSALS as refusal:
        return Folder(path, f"{type(refusal).__name__}: {refusal}", 0.0, None)


@contextmanager
def made(folders: Iterable[str | None]) -> Iterator[None]:
    """The folders are there inside, where that can be, and those that were not are gone again after."""
    new: list[epath.Path] = []
    for name in folders:
        if name is not None and not _in_bucket(name):
            folder = epath.Path(name)
            with suppress(*_REFUSALS):
                missing = [each for each in (folder, *folder.parents) if not each.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                new += missing
    try:
        yield
    finally:
        for folder in new:
            with suppress(*_REFUSALS):  # another process may be there as well
                folder.rmdir()


@contextmanager
def marked(folder: str, mark: str) -> Iterator[None]:
    """A file that others look for, to see whether the folder is one for all."""
    file = epath.Path(folder) / f".doctor-{mark}"
    with suppress(*_REFUSALS):
        file.write_text(mark)
    try:
        yield
    finally:
        with suppress(*_REFUSALS):
            file.unlink()


def sees(folder: str, mark: str) -> bool:
    try:
        return (epath.Path(folder) / f".doctor-{mark}").exists()
    except _REFUSALS:
        return False


def _write(file: epath.Path, content: bytes) -> None:
    if _in_bucket(str(file)):
        file.write_bytes(content)
        return
    with open(file, "wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())


def _in_bucket(path: str) -> bool:
    return path.startswith("gs://")


def _devices() -> tuple[list[Any], str]:
    try:
        return jax.local_devices(), ""
    except RuntimeError as error:
        return [], str(error).strip().splitlines()[-1]


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3])), "biomedgpt_jax": _own_hash()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if driver := _nvidia("--query-gpu=driver_version", "--format=csv,noheader"):
        found["NVIDIA driver"] = driver.splitlines()[0]
    return found


def _own_hash() -> str:
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _hardware() -> str:
    if "GPU" in _nvidia("-L"):
        return "cuda"
    vendors = (Path(file).read_text().strip() for file in glob.glob("/sys/bus/pci/devices/*/vendor"))
    return "tpu" if _GOOGLE in vendors and glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*") else "cpu"


def _nvidia(*arguments: str) -> str:
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _memory_free() -> int:
    """What a process can still take, as Linux says it."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
