"""Where the parameters of a new run come from: the first source that has a leaf gives it.

The full order is: the run's own checkpoint (run.py), then the sources in the order given (an earlier
run, imported weights), then fresh initialisation where that is allowed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from biomedgpt_jax.checkpoint.base import base_folder
from biomedgpt_jax.checkpoint.fingerprint import path_leaves
from biomedgpt_jax.checkpoint.run import RunCheckpoints, damaged
from biomedgpt_jax.checkpoint.weights import check_leaves, load_weights, weights_records
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths
from biomedgpt_jax.core.types import Params


@dataclass(frozen=True)
class Source:
    """Parameters on disk: their shapes by path, and how to read some of them as they are expected."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    load: Callable[[Params], Params]
    stored: Mapping[str, epath.Path]  # leaves that a folder of weights holds under their own paths


def from_weights(path: epath.PathLike, *, prefix: str = "") -> Source:
    """A folder made by `save_weights` whose tree hangs at `prefix` of the model's ("" is the root).

    Raises:
        RunError: there is no finished folder of weights.
    """
    records = weights_records(path)
    return Source(
        name=str(path),
        shapes={f"{prefix}/{leaf}" if prefix else leaf: record.shape for leaf, record in records.items()},
        load=lambda expected: load_weights(path, expected, prefix=prefix),
        stored={} if prefix else dict.fromkeys(records, epath.Path(path)),
    )


def from_run(workdir: epath.PathLike, *, step: int | None = None) -> Source:
    """All parameters of a step (the newest if None) of another run, as it answers: with averages, if it has any.

    Raises:
        RunError: `workdir` holds no finished checkpoint, or not that of `step`.
    """
    folder = epath.Path(workdir).resolve()
    if not (folder / "checkpoints").exists():
        raise RunError(f"{folder} is not the workdir of a run: it has no folder `checkpoints`.")
    with RunCheckpoints(folder, keep=None, read_only=True) as checkpoints:
        chosen = checkpoints.latest() if step is None else step
        if chosen is None or not (folder / "checkpoints" / str(chosen)).exists():
            there = ", ".join(map(str, checkpoints.steps())) or "none"
            wanted = "a finished step" if step is None else f"step {step}"
            raise RunError(
                f"{folder}/checkpoints: expected {wanted}, found {there}. "
                "Train the run up to a checkpoint first, or choose a step that is there."
            )
        record = checkpoints.record(chosen)
    base = base_folder(folder, record["base"])
    frozen = {leaf: r.shape for leaf, r in weights_records(base).items()} if base.exists() else {}
    shapes = {path: tuple(shape) for path, shape in record["leaves"].items()}
    answering = "average/" if any(path.startswith("average/") for path in shapes) else "trainable/"
    place = {path.split("/", 1)[1]: path for path in shapes if path.startswith((answering, "statistics/"))}

    def load(expected: Params) -> Params:
        leaves = path_leaves(expected)
        mine = {place[path]: leaf for path, leaf in leaves.items() if path in place}
        rest = from_leaf_paths({path: leaf for path, leaf in leaves.items() if path not in place})
        arrays = path_leaves(load_weights(base, rest)) if rest else {}
        for item, tree in from_leaf_paths(mine).items():
            arrays |= path_leaves(_read_step(folder / "checkpoints" / str(chosen) / item, tree))
        return from_leaf_paths(arrays)

    trained = {path: shapes[stored] for path, stored in place.items()}
    return Source(f"{folder} step {chosen}", trained | frozen, load, dict.fromkeys(frozen, base))


def starting_params(
    expected: Params,
    sources: Sequence[Source],
    *,
    init: Callable[[jax.Array], Params],
    key: jax.Array,
    may_be_fresh: Callable[[str], bool],
) -> tuple[Params, dict[str, str]]:
    """Returns all parameters as `expected` says, and for each path the name of where it came from.

    Args:
        expected: the whole model as ShapeDtypeStructs with shardings.
        sources: first has precedence.
        init: the model's initialisation; only the leaves that no source has are computed.
        key: its random key.
        may_be_fresh: whether a path may be initialised; anything else must come from a source.

    Raises:
        RunError: a source has a leaf that the model has not, a leaf of another shape, or a leaf that
            may not be fresh is in no source.
    """
    wanted = path_leaves(expected)
    origin: dict[str, str] = {}
    arrays: dict[str, Any] = {}
    for source in sources:
        extra = sorted(source.shapes.keys() - wanted.keys())
        if extra:
            raise RunError(
                f"{source.name}: {len(extra)} arrays have no place in the model, first {', '.join(extra[:5])}. "
                "Expected the same model and tuning; nothing is left out silently."
            )
        new = {path: wanted[path] for path in source.shapes if path not in origin}
        check_leaves(source.name, new, source.shapes)
        arrays |= path_leaves(source.load(from_leaf_paths(new)))
        origin |= {path: source.name for path in new}
    fresh = [path for path in wanted if path not in origin]
    _refuse([path for path in fresh if not may_be_fresh(path)], [source.name for source in sources])
    if fresh:
        arrays |= _initialised({path: wanted[path] for path in fresh}, init, key)
        origin |= dict.fromkeys(fresh, "fresh initialisation")
    return from_leaf_paths(arrays), origin


def _read_step(folder: epath.Path, abstract: Params) -> Params:
    """Restores the leaves of `abstract` (a part of what is stored) from an Orbax folder onto their devices."""
    if not abstract:
        return {}
    with damaged(folder), ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            ),
        )


def _initialised(wanted: dict[str, Any], init: Callable[[jax.Array], Params], key: jax.Array) -> dict[str, jax.Array]:
    def some(key: jax.Array) -> dict[str, jax.Array]:
        leaves = path_leaves(init(key))
        return {path: leaves[path].astype(like.dtype) for path, like in wanted.items()}

    return jax.jit(some, out_shardings={path: like.sharding for path, like in wanted.items()})(key)


def _refuse(missing: Iterable[str], sources: Sequence[str]) -> None:
    missing = sorted(missing)
    if missing:
        raise RunError(
            f"{len(missing)} parameters come from nowhere, first {', '.join(missing[:5])}: expected them in "
            f"{', '.join(sources) or 'a source, but none was given'}, and they may not be initialised afresh. "
            "Give the weights that hold them."
        )
