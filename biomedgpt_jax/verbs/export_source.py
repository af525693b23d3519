"""What `biomedgpt export` reads: a step of a run, or a folder of imported weights; leaf by leaf, never as a whole."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from biomedgpt_jax.checkpoint.start import Source, from_run
from biomedgpt_jax.checkpoint.weights import TABLE, read_layers, read_leaf, weights_records, weights_table
from biomedgpt_jax.convert.card import Origin, Score
from biomedgpt_jax.convert.export import Form
from biomedgpt_jax.convert.importer import TOKENIZER_FILES
from biomedgpt_jax.convert.leaves import Leaves, below
from biomedgpt_jax.convert.processing import TOKENIZER_SETTINGS
from biomedgpt_jax.convert.shapes import model_shapes
from biomedgpt_jax.core.config_json import from_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.lora import Lora, is_adapter, merge_lora, without_lora
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.data.images import Geometry
from biomedgpt_jax.data.tokenizers import Tokenizer, load_tokenizer
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, make_llama3_med
from biomedgpt_jax.models.vit import VitConfig
from biomedgpt_jax.verbs.model_spec import DTYPES, ModelSpec, read_asking
from biomedgpt_jax.verbs.origins import read_origins
from biomedgpt_jax.verbs.spec_file import read_spec
from biomedgpt_jax.verbs.training_data import TOKENIZER

PartConfig = Llama3MedConfig | LlamaConfig | VitConfig
PARTS: dict[str, type] = {"model": Llama3MedConfig, "decoder": LlamaConfig, "tower": VitConfig}
NO_CONTEXT = 10**9  # what tokenizer_config.json states where nobody knows


@dataclass(frozen=True)
class Adapted:
    """A run with LoRA, its factors apart from the rest."""

    lora: Lora
    factors: Leaves
    base: Leaves  # of the plain model, without the factors


@dataclass(frozen=True)
class HeldOut:
    """Prepared data whose questions the certificate may ask."""

    folders: tuple[Path, ...]
    split: str


@dataclass(frozen=True)
class Exportable:
    name: str
    part: str  # "model", "decoder" or "tower": what the leaves are the tree of
    config: PartConfig
    leaves: Leaves  # of the plain model, adapters merged
    adapted: Adapted | None
    tokenizer: Tokenizer | None
    tokenizer_files: tuple[Path, ...]
    template: str | None
    geometry: str | None
    context: int | None  # tokens that the decoder was made for
    origins: tuple[Origin, ...]
    scores: tuple[Score, ...]
    held_out: HeldOut

    def config_of(self, form: Form) -> PartConfig:
        """Of what a folder of that form holds."""
        if isinstance(self.config, Llama3MedConfig):
            parts = {Form.DECODER: self.config.decoder, Form.TOWER: self.config.vision.tower}
            return parts.get(form, self.config)
        return self.config

    def leaves_of(self, form: Form) -> Leaves:
        """The same of its leaves."""
        prefixes = {Form.DECODER: "decoder/", Form.TOWER: "tower/"} if self.part == "model" else {}
        return below(self.leaves, prefixes[form]) if form in prefixes else self.leaves


def read_exportable(folder: Path, step: int | None) -> Exportable:
    """Opens a run (the newest step if None) or a folder of weights; no parameter is read yet.

    Raises:
        RunError: the folder is neither, or it is damaged.
    """
    return _weights(folder) if (folder / TABLE).is_file() else _run(folder, step)


def stored_leaves(folder: Path) -> Leaves:
    """Of a folder of weights, in the dtypes in which they are stored."""
    records = weights_records(folder)
    return Leaves(
        {path: record.shape for path, record in records.items()},
        {path: np.dtype(record.dtype) for path, record in records.items()},
        partial(read_leaf, folder),
        partial(read_layers, folder),
    )


def run_leaves(source: Source, shapes: dict[str, tuple[int, ...]]) -> Leaves:
    """Of a run without adapters, in float32."""
    stored = dict.fromkeys(shapes, np.dtype(np.float32))
    return _float32(shapes, partial(_whole, source, stored), partial(_layers, source, stored))


def run_scores(run: Path, name: str) -> tuple[Score, ...]:
    """Those that a run kept of one of its steps, "FOLDER step NUMBER"."""
    step = name.rsplit(" step ", 1)[1]
    return tuple(_scores(run, step))


def _run(folder: Path, step: int | None) -> Exportable:
    spec, source = read_spec(folder, ModelSpec), from_run(folder, step=step)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = folder / TOKENIZER
    leaves, adapted = _run_leaves(source, spec)
    return Exportable(
        name=source.name,
        part="model",
        config=spec.model,
        leaves=leaves,
        adapted=adapted,
        tokenizer=load_tokenizer(tokenizer),
        tokenizer_files=tuple(tokenizer.iterdir()),
        template=spec.template,
        geometry=Geometry(spec.geometry).exact.value,  # a published processor knows no other
        context=config["data"]["row_tokens"],
        origins=read_origins(folder),
        scores=run_scores(folder, source.name),
        held_out=HeldOut(tuple(map(Path, config["eval"]["paths"])), config["eval"]["split"]),
    )


def _weights(folder: Path) -> Exportable:
    meta = weights_table(folder)["meta"]
    part = meta.get("part")
    if part not in PARTS:
        raise RunError(
            f"{folder}: these weights are of {part or meta.get('role') or 'unknown kind'!r}; expected the workdir of a "
            f"run, or a folder made by `biomedgpt import` that holds a {', '.join(PARTS)}."
        )
    files = tuple(file for name in TOKENIZER_FILES if (file := folder / name).is_file())
    asking = read_asking(folder)
    return Exportable(
        name=str(folder),
        part=part,
        config=from_json(PARTS[part], meta["config"], f"{folder / TABLE}: config"),
        leaves=stored_leaves(folder),
        adapted=None,
        tokenizer=load_tokenizer(folder) if any(file.name.startswith("tokenizer.") for file in files) else None,
        tokenizer_files=files,
        template=asking["template"] or None,
        geometry=asking["geometry"] or None,
        context=_context(folder),
        origins=(Origin(folder.name, part, meta.get("licence"), weights_table(folder)["hash"]), *read_origins(folder)),
        scores=(),
        held_out=HeldOut((), ""),
    )


def _run_leaves(source: Source, spec: ModelSpec) -> tuple[Leaves, Adapted | None]:
    """In float32: what was trained is so stored, and the rest is exact in it."""
    shapes, lora, stored = model_shapes(spec.model), spec.lora, _stored_dtypes(spec)
    whole, layers = partial(_whole, source, stored), partial(_layers, source, stored)
    if lora is None:
        return _float32(shapes, whole, layers), None

    def parts(path: str) -> list[str]:
        names = [f"{path}/array/qvalue", f"{path}/array/scale", f"{path}_lora_a", f"{path}_lora_b", path]
        return [name for name in names if name in source.shapes]

    def plain(convert: Callable[[Params, Lora], Params]) -> Leaves:
        def read(path: str) -> np.ndarray:
            params = from_leaf_paths({name: _on_host(whole(name)) for name in parts(path)})
            return np.asarray(leaf_paths(convert(params, lora))[path])

        def read_layers(path: str) -> Iterator[np.ndarray]:
            names = parts(path)
            for layer in zip(*map(layers, names), strict=True):
                one = {name: _on_host(array[None]) for name, array in zip(names, layer, strict=True)}
                yield np.asarray(leaf_paths(convert(from_leaf_paths(one), lora))[path][0])

        return _float32(shapes, read, read_layers)

    factors = {path: shape for path, shape in source.shapes.items() if is_adapter(path)}
    return plain(merge_lora), Adapted(lora, _float32(factors, whole, layers), plain(without_lora))


def _float32(
    shapes: dict[str, tuple[int, ...]], read: Callable[[str], np.ndarray], layers: Callable[[str], Iterator[np.ndarray]]
) -> Leaves:
    return Leaves(shapes, dict.fromkeys(shapes, np.dtype(np.float32)), read, layers)


def _whole(source: Source, dtypes: dict[str, Any], path: str) -> np.ndarray:
    if path in source.stored:
        return read_leaf(source.stored[path], path).astype(dtypes[path], copy=False)
    expected = jax.ShapeDtypeStruct(source.shapes[path], dtypes[path], sharding=_host())
    return np.asarray(leaf_paths(source.load(from_leaf_paths({path: expected})))[path])


def _layers(source: Source, dtypes: dict[str, Any], path: str) -> Iterator[np.ndarray]:
    """A checkpoint holds what was trained, which is read as a whole; layer by layer what was frozen."""
    if path not in source.stored:
        return iter(_whole(source, dtypes, path))
    return (layer.astype(dtypes[path], copy=False) for layer in read_layers(source.stored[path], path))


def _host() -> SingleDeviceSharding:
    """The memory of the host, whatever the accelerators are."""
    return SingleDeviceSharding(jax.local_devices(backend="cpu")[0])


def _on_host(array: np.ndarray) -> jax.Array:
    return jax.device_put(array, _host())


def _stored_dtypes(spec: ModelSpec) -> dict[str, Any]:
    """Float32 for all but the integers of quantised kernels."""
    model = make_llama3_med(spec.model, compute_dtype=DTYPES["float32"], remat=NO_REMAT, lora=spec.lora)
    return {path: leaf.dtype for path, leaf in leaf_paths(jax.eval_shape(model.init, jax.random.key(0))).items()}


def _scores(run: Path, step: str) -> Iterable[Score]:
    for file in sorted(run.glob(f"eval/step_{step}/*/scores.json")):
        summary = json.loads(file.read_text())
        for group in summary["groups"]:
            yield _score(file.parent.name, summary, group)


def _score(data: str, summary: dict[str, Any], group: dict[str, Any]) -> Score:
    score, baseline = group["scores"][group["headline"]], group["baseline"]
    return Score(
        data=f"{data} {group['task']}, {group['answer_type']}",
        protocol=summary["protocol"],
        metric=group["headline"],
        value=score["mean"],
        low=score["low"],
        high=score["high"],
        n=group["n"],
        baseline=None if baseline is None else baseline["scores"][group["headline"]],
    )


def _context(folder: Path) -> int | None:
    stated = _json(folder / TOKENIZER_SETTINGS).get("model_max_length")
    return stated if isinstance(stated, int) and stated < NO_CONTEXT else None


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}). Import the weights again.") from error
