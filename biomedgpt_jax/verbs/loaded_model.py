"""A model read from disk, ready to be asked: a run's, an imported one, or a Hugging Face folder as it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import Mesh

from biomedgpt_jax.checkpoint.start import from_run, from_weights
from biomedgpt_jax.checkpoint.weights import TABLE
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.lora_folder import is_lora
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.images import Geometry
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.tokenizers import Tokenizer, load_tokenizer
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig
from biomedgpt_jax.verbs.command_line import suggest
from biomedgpt_jax.verbs.model_spec import (
    DTYPES,
    ModelSpec,
    build_model,
    imported_spec,
    lookup,
    read_asking,
)
from biomedgpt_jax.verbs.spec_file import FILE, read_spec
from biomedgpt_jax.verbs.starting_weights import placed
from biomedgpt_jax.verbs.training_data import TOKENIZER

GEOMETRIES = tuple(each.value for each in Geometry)


@dataclass(frozen=True)
class LoadedModel:
    name: str  # folder, and step of a run
    spec: ModelSpec
    model: ModelFns
    params: Params
    tokenizer: Tokenizer
    tokenizer_folder: Path
    mesh: Mesh


@dataclass(frozen=True)
class _Found:
    """What a folder holds, before anything large is read. An empty name: the folder does not say it."""

    name: str
    spec: ModelSpec
    load: Callable[[Params], Params]  # arrays as the expected shapes say
    tokenizer_folder: Path


def define_model(values: flags.FlagValues) -> None:
    """The flags that say which model is asked, and how."""
    flags.DEFINE_string(
        "model",
        None,
        "Workdir of a run, folder made by `biomedgpt import`, or Hugging Face folder.",
        flag_values=values,
    )
    flags.DEFINE_integer("step", None, "Checkpoint of a run; the newest if not set.", flag_values=values)
    flags.DEFINE_enum(
        "template", None, list(TEMPLATES), "How questions are put, if not as the folder says.", flag_values=values
    )
    flags.DEFINE_enum(
        "geometry", None, list(GEOMETRIES), "How pictures become square, if not as it says.", flag_values=values
    )


def load_model(
    folder: Path, step: int | None, dtype: str, *, template: str | None = None, geometry: str | None = None
) -> LoadedModel:
    """All parameters in `dtype`, over all local devices. `template` and `geometry` overrule what the folder says.

    Raises:
        RunError: the folder holds no whole model, or it is damaged. UsageError: it does not say template or
            geometry, and neither does the call; a step of what has no steps.
    """
    found = _find(folder, step)
    asking = {"template": template or found.spec.template, "geometry": geometry or found.spec.geometry}
    return _loaded(replace(found, spec=_asked_so(replace(found.spec, **asking), folder)), dtype)


def _find(folder: Path, step: int | None) -> _Found:
    if (folder / FILE).is_file():
        return _of_run(folder, step)
    if step is not None:
        raise UsageError(f"--step={step}: {folder} is not the workdir of a run, so it has no steps.")
    if (folder / TABLE).is_file():
        return _imported(folder)
    if (folder / "config.json").is_file() or is_lora(folder):
        return _published(folder)
    raise RunError(
        f"{folder} holds no model: expected the workdir of a run ({FILE}), a folder made by `biomedgpt import` "
        f"({TABLE}) or a Hugging Face folder (config.json); "
        + (
            "found none of these files."
            if folder.is_dir()
            else f"found {'a file' if folder.exists() else 'nothing there'}."
        )
    )


def _of_run(folder: Path, step: int | None) -> _Found:
    spec, source = read_spec(folder, ModelSpec), from_run(folder, step=step)
    return _Found(source.name, spec, source.load, folder / TOKENIZER)


def _imported(folder: Path) -> _Found:
    return _Found(str(folder), imported_spec(folder), from_weights(folder).load, folder)


def _published(folder: Path) -> _Found:
    imported = import_folder(folder)
    if not isinstance(imported.config, Llama3MedConfig):
        raise RunError(f"{folder} holds a {imported.part} alone ({imported.family}), and no whole model.")

    def load(expected: Params) -> Params:
        like = leaf_paths(expected)
        return from_leaf_paths(
            {
                path: jax.device_put(array.astype(like[path].dtype), like[path].sharding)
                for path, array in imported.leaves
            }
        )

    return _Found(str(folder), ModelSpec(imported.config, None, **read_asking(imported.texts)), load, imported.texts)


def _asked_so(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The same, checked. Raises UsageError where a name is missing or unknown."""
    for flag, name, known in (("template", spec.template, TEMPLATES), ("geometry", spec.geometry, GEOMETRIES)):
        if not name:
            raise UsageError(
                f"{folder} does not say its {flag}, and a wrong one spoils the answers: name it with --{flag}=NAME, "
                f"one of {', '.join(known)}."
            )
        if name not in known:
            raise UsageError(f"{folder}: {flag} {name!r} is none of {', '.join(known)}.{suggest(name, known)}")
    return spec


def _loaded(found: _Found, dtype: str) -> LoadedModel:
    spec, tokenizer = found.spec, load_tokenizer(found.tokenizer_folder)
    if tokenizer.vocab_size > spec.model.decoder.vocab_size:
        raise RunError(
            f"{found.tokenizer_folder}: the tokenizer has {tokenizer.vocab_size} tokens, the decoder's embedding "
            f"{spec.model.decoder.vocab_size} rows. They are not of the same model."
        )
    model = build_model(spec, compute_dtype=dtype, remat=NO_REMAT)
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=1, context=1))
    kind = lookup("dtype", dtype, DTYPES)
    expected = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, kind if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype, sharding=leaf.sharding
        ),
        placed(model, mesh),
    )
    return LoadedModel(found.name, spec, model, found.load(expected), tokenizer, found.tokenizer_folder, mesh)
