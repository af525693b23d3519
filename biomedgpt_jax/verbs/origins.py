"""What a run was made from: weights and data with licence and hash, kept in its folder for the model card.

Written once, when the run begins, because folders of weights and data may be gone when it is exported. The origins
of an earlier stage come along.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from biomedgpt_jax.checkpoint.weights import weights_table
from biomedgpt_jax.convert.card import Origin
from biomedgpt_jax.core.config_json import from_json, to_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.verbs.command_line import Config

FILE = "origins.json"
EARLIER = " of an earlier stage"


def write_origins(workdir: Path, config: Config, weights: Mapping[str, str]) -> None:
    """Records the origins of a run that begins; paths of this machine stay out.

    Args:
        weights: role -> folder; names that are no folders are no origins.
    """
    (workdir / FILE).write_text(json.dumps([to_json(origin) for origin in _found(config, weights)], indent=1) + "\n")


def read_origins(workdir: Path) -> tuple[Origin, ...]:
    """Those that `write_origins` recorded; none in a run of an older version.

    Raises:
        RunError: the file is damaged.
    """
    file = workdir / FILE
    if not file.is_file():
        return ()
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}). Copy it again from where the run was made.") from error
    return tuple(from_json(Origin, each, str(file)) for each in content)


def _found(config: Config, weights: Mapping[str, str]) -> list[Origin]:
    earlier = read_origins(Path(config.init.run)) if config.init.run else ()
    found = [_of_weights(Path(name), role) for role, name in weights.items() if name and Path(name).is_dir()]
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
    return Origin(manifest.title, "training data", manifest.licence, manifest.fingerprint)


def _earlier(origin: Origin) -> Origin:
    role = origin.role.removesuffix(EARLIER)
    return Origin(origin.name, f"{role}{EARLIER}" if role == "training data" else role, origin.licence, origin.sha256)
