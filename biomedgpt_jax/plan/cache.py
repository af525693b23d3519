"""Compilations kept on disk, by what went in: the lowered program, the target, the compilers' versions and flags.

<cache>/KEY.json     memory, seconds, or why it does not fit        <cache>/KEY.hlo.gz    the optimized program
"""

import gzip
import hashlib
import json
import os
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from biomedgpt_jax.core.topology import Topology
from biomedgpt_jax.plan.compile import Compiled, DoesNotFit, Memory, compile_lowered

_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "biomedgpt_jax" / "fit"


def compile_once(lowered: Any, topology: Topology, folder: Path) -> Compiled | DoesNotFit:
    """What compiling `lowered` gives, from the folder where it was compiled before."""
    key = _key(lowered, topology)
    kept = _read(folder, key)
    if kept is not None:
        return kept
    made = compile_lowered(lowered)
    _write(folder, key, made)
    return made


def _key(lowered: Any, topology: Topology) -> str:
    parts = [lowered.as_text(), topology.name, *(f"{name} {_version(name)}" for name in _COMPILERS)]
    parts += [f"{name}={os.environ.get(name, '')}" for name in _FLAGS]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _read(folder: Path, key: str) -> Compiled | DoesNotFit | None:
    """None also for files of an earlier version of this module, or torn ones."""
    try:
        found = json.loads((folder / f"{key}.json").read_text())
        if "needed" in found:
            return DoesNotFit(**found)
        hlo = gzip.decompress((folder / f"{key}.hlo.gz").read_bytes()).decode()
        return Compiled(hlo, Memory(**found["memory"]), found["seconds"])
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return None


def _write(folder: Path, key: str, made: Compiled | DoesNotFit) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(made, DoesNotFit):
        _replace(folder / f"{key}.json", json.dumps(asdict(made)).encode())
        return
    _replace(folder / f"{key}.hlo.gz", gzip.compress(made.hlo.encode(), mtime=0))
    # Last, so that what it stands for is there.
    facts = {"memory": asdict(made.memory), "seconds": made.seconds}
    _replace(folder / f"{key}.json", json.dumps(facts).encode())


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
