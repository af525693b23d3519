"""A BiomedGPT read from disk, ready to be asked: a run's, or an imported one."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from biomedgpt_jax.checkpoint.start import from_run, from_weights
from biomedgpt_jax.checkpoint.weights import TABLE
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.processing import ASKING
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.answer_lists import listed_answers
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.tokenizers import load_tokenizer
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig
from biomedgpt_jax.verbs.biomedgpt_spec import PIXELS, STILL, TASKS, BiomedGptSpec, build_model, imported_config
from biomedgpt_jax.verbs.model_spec import DTYPES, lookup
from biomedgpt_jax.verbs.pair_data import ANSWERS, Answers, checked_tokenizer, kept_answers
from biomedgpt_jax.verbs.spec_file import FILE, read_spec
from biomedgpt_jax.verbs.starting_weights import placed
from biomedgpt_jax.verbs.training_data import TOKENIZER

# How a model is asked whose folder does not say it, but for the image size: as the official VQA.
UNSAID = {
    "pixels": "half",
    "geometry": "resize",
    "task": "",
    "classified": (),
    "words": "",
    "hint": "",
    "lower_answers": True,
    "source_tokens": 512,
    "target_tokens": 512,
}


@dataclass(frozen=True)
class LoadedPairs:
    name: str  # folder, and step of a run
    spec: BiomedGptSpec
    model: ModelFns
    params: Params
    tokenizer: BiomedGptTokens
    answers: Answers  # the closed list that it was trained on; () of open answers
    mesh: Mesh


def load_pairs(folder: Path, step: int | None, dtype: str, said: dict[str, Any], answers_file: str) -> LoadedPairs:
    """All parameters in `dtype`, over all local devices.

    Args:
        said: fields of the specification that overrule what the folder says.
        answers_file: a closed list in the place of the folder's: a text with an answer on each line, or a run's
            answers.json; "": the folder's.

    Raises:
        RunError: the folder is damaged. UsageError: neither it nor the call says the image size, or a name is none.
    """
    found = _find(folder, step, said)
    spec = found.spec
    files = found.tokenizer_folder
    tokenizer = checked_tokenizer(load_tokenizer(files), spec.model.vocab_size, files, published=files == folder)
    answers = kept_answers(folder)
    if answers_file:
        answers = _listed(Path(answers_file), tokenizer, spec)
    model = build_model(spec, compute_dtype=dtype, remat=Remat.NONE, learning=STILL)
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=1, context=1))
    kind = lookup("dtype", dtype, DTYPES)

    def cast(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # Running statistics stay as exact as they were kept.
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.ShapeDtypeStruct(
            leaf.shape, jnp.float32 if model.is_statistic(name) else kind, sharding=leaf.sharding
        )

    expected = jax.tree_util.tree_map_with_path(cast, placed(model, mesh))
    return LoadedPairs(found.name, spec, model, found.load(expected), tokenizer, answers, mesh)


@dataclass(frozen=True)
class _Found:
    """What a folder holds, before anything large is read."""

    name: str
    spec: BiomedGptSpec
    load: Callable[[Params], Params]  # arrays as the expected shapes say
    tokenizer_folder: Path


def _find(folder: Path, step: int | None, said: dict[str, Any]) -> _Found:
    if (folder / FILE).is_file():
        source, spec = from_run(folder, step=step), read_spec(folder, BiomedGptSpec)
        return _Found(source.name, _with(spec, said), source.load, folder / TOKENIZER)
    if step is not None:
        raise UsageError(f"--step={step}: {folder} is not the workdir of a run, so it has no steps.")
    if (folder / TABLE).is_file():
        config = imported_config(folder)
        return _Found(str(folder), _imported_spec(folder, config, said), from_weights(folder).load, folder)
    imported = import_folder(folder)
    assert isinstance(imported.config, BiomedGptConfig)  # it was asked for its family before

    def load(expected: Params) -> Params:
        like = leaf_paths(expected)
        arrays = {path: array.astype(like[path].dtype) for path, array in imported.leaves}
        return from_leaf_paths({path: jax.device_put(array, like[path].sharding) for path, array in arrays.items()})

    return _Found(str(folder), _imported_spec(folder, imported.config, said), load, folder)


def _listed(file: Path, tokenizer: BiomedGptTokens, spec: BiomedGptSpec) -> Answers:
    if file.name == ANSWERS:  # of a run
        return kept_answers(file.parent)
    return tuple(listed_answers(file, tokenizer, spec.lower_answers))


def _imported_spec(folder: Path, model: BiomedGptConfig, said: dict[str, Any]) -> BiomedGptSpec:
    """What an export of ours states, and where it is silent `said`, and then the official way."""
    file, stated = folder / ASKING, {}
    if file.is_file():
        try:
            content = json.loads(file.read_bytes())
            stated = {name: content[name] for name in (*UNSAID, "image_size") if name in content}
            stated["classified"] = tuple(stated.get("classified", ()))
        except (ValueError, TypeError) as error:
            raise RunError(f"{file}: expected how the model is asked ({error}). Export it again.") from error
    asking = UNSAID | stated | said
    if "image_size" not in asking:
        raise UsageError(
            f"{folder} does not say at which size pictures are shown, and a wrong one spoils the answers: give "
            "image_size (256, 384 and 480 are the published ones)."
        )
    return _with(BiomedGptSpec(model=model, **asking), {})


def _with(spec: BiomedGptSpec, said: dict[str, Any]) -> BiomedGptSpec:
    changed = BiomedGptSpec(**{field.name: said.get(field.name, getattr(spec, field.name)) for field in fields(spec)})
    lookup("task", changed.task, TASKS)
    lookup("pixels", changed.pixels, PIXELS)
    return changed
