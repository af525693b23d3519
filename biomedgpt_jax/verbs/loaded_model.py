"""A trained model, read from the workdir of its run, ready to be asked or exported."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from biomedgpt_jax.checkpoint.start import from_run
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.tokenizers import Tokenizer, load_tokenizer
from biomedgpt_jax.verbs.model_spec import DTYPES, ModelSpec, build_model, lookup, read_spec
from biomedgpt_jax.verbs.starting_weights import placed
from biomedgpt_jax.verbs.training_data import TOKENIZER


@dataclass(frozen=True)
class LoadedModel:
    name: str  # folder and step
    spec: ModelSpec
    model: ModelFns
    params: Params
    tokenizer: Tokenizer
    tokenizer_folder: Path
    mesh: Mesh


def load_model(folder: Path, step: int | None, dtype: str) -> LoadedModel:
    """All parameters of a step (the newest if None) in `dtype`, over all local devices.

    Raises:
        RunError: the folder is no run, or has no such step.
    """
    spec = read_spec(folder)
    source = from_run(folder, step=step)
    model = build_model(spec, compute_dtype=dtype, remat="none")
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=1, context=1))
    kind = lookup("dtype", dtype, DTYPES)
    expected = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, kind if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype, sharding=leaf.sharding
        ),
        placed(model, mesh),
    )
    tokenizer = folder / TOKENIZER
    return LoadedModel(source.name, spec, model, source.load(expected), load_tokenizer(tokenizer), tokenizer, mesh)
