"""model.json in the folder of a run: the specification of its model, of whichever family."""

import json
from pathlib import Path
from typing import Any, TypeVar

from biomedgpt_jax.core.config_json import from_json, to_json
from biomedgpt_jax.core.errors import RunError

FILE = "model.json"
T = TypeVar("T")


def write_spec(folder: Path, spec: Any) -> None:
    (folder / FILE).write_text(json.dumps(to_json(spec), indent=1) + "\n")


def read_spec(folder: Path, kind: type[T]) -> T:
    """The specification in a run's folder, which must be one of this class.

    Raises:
        RunError: the folder is no run, the model is of another family, or the file is damaged or of another version.
    """
    name = spec_name(folder)
    if name not in ("", kind.__name__):
        raise RunError(f"{folder / FILE}: expected a {kind.__name__}, found a {name}, which is of another family.")
    return from_json(kind, _content(folder), str(folder / FILE))


def spec_name(folder: Path) -> str:
    """The class of the specification in a run's folder, "" where it names none. RunError as `read_spec`."""
    content = _content(folder)
    return str(content.get("type", "")) if isinstance(content, dict) else ""


def _content(folder: Path) -> Any:
    path = folder / FILE
    if not path.exists():
        raise RunError(f"{folder} is not the workdir of a run: it has no {FILE}.")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}). Copy it again from where the run was made.") from error
