"""Compilations kept on disk, by what went in: the lowered program, the target, the compilers' versions and flags.

<cache>/KEY.json     memory, seconds, or why it does not fit        <cache>/KEY.hlo.gz    the optimized program
<cache>/asked/KEY    names these two for a configuration, so that nothing need be lowered to find them; of its key are
                     this package's source and the versions of all that traces, too
"""

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from biomedgpt_jax.core.topology import Topology
from biomedgpt_jax.plan.compile import Compiled, DoesNotFit, Memory, compile_lowered
from biomedgpt_jax.plan.target import compiler_options

_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")
_TRACERS = ("flax", "optax", "qwix", "numpy")
_PRECISION = "jax_default_matmul_precision"
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "biomedgpt_jax" / "fit"


def compile_once(asked: str, lower: Callable[[], Any], topology: Topology, folder: Path) -> Compiled | DoesNotFit:
    """What compiling gives, from the folder where it was compiled before.

    Args:
        asked: all that `lower` depends on beside code, as text.
        lower: makes the program (a `jax.stages.Lowered`); not called where the same was asked before.
    """
    note = folder / "asked" / _key(asked, topology, (*_TRACERS, *_COMPILERS), _source(), _precision())
    if note.is_file() and (kept := _read(folder, note.read_text())) is not None:
        return kept
    lowered = lower()
    key = _key(lowered.as_text(), topology, _COMPILERS)
    made = _read(folder, key)
    if made is None:
        made = compile_lowered(lowered, compiler_options(topology))
        _write(folder, key, made)
    note.parent.mkdir(exist_ok=True)
    _replace(note, key.encode())
    return made


def _key(program: str, topology: Topology, packages: Iterable[str], *more: str) -> str:
    parts = [program, topology.name, *(f"{name} {_version(name)}" for name in packages), *more]
    parts += [f"{name}={os.environ.get(name, '')}" for name in _FLAGS]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _precision() -> str:
    """Of matrix products, which is part of a program and no setting of ours."""
    return str(getattr(jax.config, _PRECISION))


@cache
def _source() -> str:
    """Of this package, whose code makes the program."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


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
