"""The frozen parameters of a run, written once and referenced by their hash from every step."""

from etils import epath

from biomedgpt_jax.checkpoint.fingerprint import leaf_records, tree_hash
from biomedgpt_jax.checkpoint.weights import TABLE, load_weights, save_weights
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.types import Params


def save_base(workdir: epath.PathLike, frozen: Params) -> str:
    """Returns the hash of `frozen`, and writes it to <workdir>/base/<hash> unless it is there."""
    base = tree_hash(leaf_records(frozen))
    folder = base_folder(workdir, base)
    if frozen and not (folder / TABLE).exists():
        save_weights(folder, frozen, {"role": "frozen base"})
    return base


def load_base(workdir: epath.PathLike, base: str, expected: Params) -> Params:
    """Reads the frozen base `base` as `expected` (ShapeDtypeStructs with shardings) says.

    Raises:
        RunError: it is missing, damaged, or of other names and shapes.
    """
    return load_weights(base_folder(workdir, base), expected) if expected else {}


def base_folder(workdir: epath.PathLike, base: str) -> epath.Path:
    return epath.Path(workdir) / "base" / base


def check_frozen(frozen: Params, base: str) -> None:
    """Asserts that the frozen leaves hold the bits that they began with.

    Raises:
        RunError: they changed, which only a defect in the trainer can do.
    """
    found = tree_hash(leaf_records(frozen))
    if found != base:
        raise RunError(
            f"The frozen parameters changed during training: expected hash {base}, found {found}. "
            "The run's weights are not what its settings say; please report this with the configuration."
        )
