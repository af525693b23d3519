"""What a run was made from: weights and data with licence and hash, kept in its folder for the model card.

Written once, when the run begins, because folders of weights and data may be gone when it is exported. The origins
of an earlier stage come along.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from biomedgpt_jax.checkpoint.weights import weights_table
from biomedgpt_jax.convert.card import Origin
from biomedgpt_jax.convert.processing import LINT, ORIGINS
from biomedgpt_jax.core.config_json import from_json, to_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.linting import lint_text, read_lint, without_ids

EARLIER = " of an earlier stage"


def write_origins(workdir: Path, config: Config, weights: Mapping[str, str]) -> None:
    """Records the origins of a run that begins; paths of this machine stay out.

    Args:
        weights: role -> folder; names that are no folders are no origins.
    """
    (workdir / ORIGINS).write_text(_text(_found(config, weights)))


def read_origins(workdir: Path) -> tuple[Origin, ...]:
    """Those that `write_origins` recorded, or that came with imported weights; () where nobody did.

    Raises:
        RunError: the file is damaged.
    """
    file = workdir / ORIGINS
    if not file.is_file():
        return ()
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}). Copy it again from where the run was made.") from error
    # Older versions did not record who may have the data.
    return tuple(from_json(Origin, {"access": "", **each}, str(file)) for each in content)


def companions(folder: Path, origins: tuple[Origin, ...]) -> dict[str, str]:
    """The files that an export of `folder` takes along: its origins, and what lint found, without ids of samples."""
    lint = read_lint(folder)
    found = {LINT: lint_text(without_ids(lint))} if lint is not None else {}
    return {ORIGINS: _text(origins), **found}


def _found(config: Config, weights: Mapping[str, str]) -> list[Origin]:
    earlier = read_origins(Path(config.init.run)) if config.init.run else ()
    found = [
        origin
        for role, name in weights.items()
        if name and Path(name).is_dir()
        for origin in (_of_weights(Path(name), role), *map(_earlier, read_origins(Path(name))))
    ]
    found += [_of_data(Path(name)) for name in config.data.paths]
    found += [_earlier(origin) for origin in earlier]
    # A tower that both stages name is one origin.
    return list({(each.role.removesuffix(EARLIER), each.name, each.sha256): each for each in reversed(found)}.values())[
        ::-1
    ]


def _of_weights(folder: Path, role: str) -> Origin:
    table = weights_table(folder)
    return Origin(folder.name, role, table["meta"].get("licence"), table["hash"])


def _of_data(folder: Path) -> Origin:
    manifest = read_manifest(folder)
    return Origin(manifest.title, "training data", manifest.licence, manifest.fingerprint, manifest.access)


def _earlier(origin: Origin) -> Origin:
    role = origin.role.removesuffix(EARLIER)
    return replace(origin, role=f"{role}{EARLIER}" if role == "training data" else role)


def _text(origins: Iterable[Origin]) -> str:
    return json.dumps([to_json(origin) for origin in origins], indent=1) + "\n"
