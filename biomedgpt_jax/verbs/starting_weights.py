"""Where a new run's parameters come from, by its configuration; nothing starts at random unsaid."""

from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from biomedgpt_jax.checkpoint.start import Source, from_run, from_weights, starting_params
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.lora import merge_lora
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.sharding import shardings
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.models.llama3_med import NO_REMAT, add_lora, make_llama3_med
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import DTYPES, ModelSpec, lookup, remat_from_config
from biomedgpt_jax.verbs.spec_file import read_spec

PARTS = ("tower", "connector", "decoder")


def start_params(config: Config, spec: ModelSpec, mesh: Mesh, say: Callable[[str], None]) -> Params:
    """All parameters of a new run: an earlier run's, then imported weights (of the whole model, or of its parts),
    then random ones where allowed.

    Raises:
        RunError: a part has no weights and is not in `config.init.random`, or weights do not fit.
    """
    plain = make_llama3_med(
        spec.model,
        compute_dtype=lookup("model.compute_dtype", config.model.compute_dtype, DTYPES),
        remat=remat_from_config(config),
        lora=None,
    )
    expected = placed(plain, mesh)
    sources = _sources(config, spec, plain, mesh)
    key, adapter_key = jax.random.split(jax.random.key(config.seed))
    params, origin = starting_params(
        expected,
        sources,
        init=plain.init,
        key=key,
        may_be_fresh=lambda path: path.split("/", 1)[0] in tuple(config.init.random),
    )
    for line in summary(origin):
        say(line)
    lora = spec.lora
    if lora is None:
        return params
    say(f"adapters of rank {lora.rank}: fresh, begin as zero")
    return jax.jit(lambda params: add_lora(spec.model, lora, params, adapter_key))(params)


def start_tower(config: Config, spec: ModelSpec, mesh: Mesh, workdir: Path | None) -> Params:
    """The frozen tower's parameters alone, as a run begins with them, or as the one in `workdir` did.

    Raises:
        RunError: the tower has no weights and is not in `config.init.random`, or weights do not fit.
    """
    plain = make_llama3_med(spec.model, compute_dtype=DTYPES["float32"], remat=NO_REMAT, lora=None)
    found = _sources(config, spec, plain, mesh) if workdir is None else [from_run(workdir)]
    params, _ = starting_params(
        {"tower": placed(plain, mesh)["tower"]},
        [Source(each.name, _of_tower(each.shapes), each.load, {}) for each in found],
        init=plain.init,
        key=jax.random.split(jax.random.key(config.seed))[0],
        may_be_fresh=lambda path: "tower" in tuple(config.init.random),
    )
    frozen_dtype = lookup("model.frozen_dtype", config.model.frozen_dtype, DTYPES)
    return jax.tree.map(lambda leaf: leaf.astype(frozen_dtype), params["tower"])


def check_origins(config: Config, spec: ModelSpec) -> None:
    """Raises UsageError for a part of a new run that has no weights and may not start at random.

    RunError for an earlier run that is none, or one of another family.
    """
    if config.init.run:
        read_spec(Path(config.init.run), ModelSpec)
    random = tuple(config.init.random)
    for part in random:
        lookup("init.random", part, dict.fromkeys(PARTS))
    if config.init.run or config.init.weights:
        return
    named = {"tower": [config.model.tower], "connector": [config.model.connector], "decoder": [config.model.decoder]}
    if spec.model.vision.second is not None:
        named["tower"].append(config.model.second_tower)
    missing = [p for p in PARTS if p not in random and not all(name and Path(name).is_dir() for name in named[p])]
    if missing:
        presets = [f"{part} {name!r}" for part in missing for name in named[part] if name and not Path(name).is_dir()]
        sizes = f"A name says sizes alone: {', '.join(presets)}. " if presets else ""
        raise UsageError(
            f"No weights for {', '.join(missing)}. {sizes}Expected folders made by `biomedgpt import` in config.model "
            "or a whole model in config.init.weights, or an earlier run in config.init.run, or leave to start at "
            "random: "
            f'--config.init.random="{(*random, *missing)}".'
        )


def placed(model: ModelFns, mesh: Mesh) -> Params:
    """Float32 shapes of all parameters with their shardings."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(mesh, model.axes(), shapes),
    )


def _sources(config: Config, spec: ModelSpec, plain: ModelFns, mesh: Mesh) -> list[Source]:
    sources = []
    if config.init.run:
        sources.append(_earlier_run(Path(config.init.run), mesh))
    if config.init.weights:
        return [*sources, from_weights(config.init.weights)]
    pair = spec.model.vision.second is not None
    for prefix, name in (
        ("tower/first" if pair else "tower", config.model.tower),
        ("tower/second", config.model.second_tower),
        ("connector", config.model.connector),
        ("decoder", config.model.decoder),
    ):
        if name and Path(name).is_dir():
            sources.append(from_weights(name, prefix=prefix))
    return sources


def _of_tower(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {path: shape for path, shape in shapes.items() if path.startswith("tower/")}


def _earlier_run(folder: Path, mesh: Mesh) -> Source:
    """A run's parameters; adapters are merged, so that the next stage begins with plain weights."""
    source, spec = from_run(folder), read_spec(folder, ModelSpec)
    lora = spec.lora
    if lora is None:
        return source
    adapted = make_llama3_med(spec.model, compute_dtype=DTYPES["float32"], remat=NO_REMAT, lora=lora)
    merged = merge_lora(source.load(placed(adapted, mesh)), lora)
    leaves = leaf_paths(merged)

    def load(expected: Params) -> Params:
        wanted = leaf_paths(expected)
        cast = {path: jax.device_put(leaves[path].astype(like.dtype), like.sharding) for path, like in wanted.items()}
        return from_leaf_paths(cast)

    return Source(f"{source.name}, adapters merged", {path: leaf.shape for path, leaf in leaves.items()}, load, {})


def summary(origin: dict[str, str]) -> list[str]:
    """One line per part and origin: "tower: weights/h-optimus-0 (512 arrays)"."""
    counts: dict[tuple[str, str], int] = {}
    for path, name in origin.items():
        key = path.split("/", 1)[0], name
        counts[key] = counts.get(key, 0) + 1
    return [f"{part}: {name} ({count} arrays)" for (part, name), count in sorted(counts.items())]
