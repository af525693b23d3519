"""Proves an export: reads the folder back, runs it with PyTorch, and compares with our model, stage by stage."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from biomedgpt_jax.convert.export import Exported, Form
from biomedgpt_jax.convert.export_adapter import BASE
from biomedgpt_jax.convert.leaves import Leaves
from biomedgpt_jax.convert.parity import Ours, Parity, Prompt, Stage, stage, verify, verify_tower, write_certificate
from biomedgpt_jax.convert.reimport import Reimport, both, reimport, reimport_adapter
from biomedgpt_jax.convert.tower_json import TowerFamily, tower_family
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import Batch, ModelFns, Params
from biomedgpt_jax.data.source import PreparedSplit, Sample, Turn
from biomedgpt_jax.data.tasks import encode_prompt, expand
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.models.connector import make_connector
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, make_llama3_med
from biomedgpt_jax.models.parts import make_decoder, make_tower_encoder
from biomedgpt_jax.models.vision import make_encoder
from biomedgpt_jax.models.vit import Features, VitConfig
from biomedgpt_jax.verbs.export_source import Exportable
from biomedgpt_jax.verbs.model_spec import DTYPES, ModelSpec, image_transform, template
from biomedgpt_jax.verbs.starting_weights import placed

NUM_PROMPTS = 4
NEW_TOKENS = 16
RANDOM_TOKENS = 48  # of a prompt for a decoder alone
MEMORY_SHARE = 0.25  # of this machine, that the float32 weights may take for a check that nobody asked for
# Of the largest logit, by which writing in a narrower dtype may move any.
ROUNDING = 0.1
FLOAT32 = DTYPES["float32"]


def certify(source: Exportable, written: Leaves, exported: Exported, asked: bool | None, say: Callable) -> bool:
    """Writes parity.json and says what it found; returns whether all is well.

    Args:
        written: the leaves as they were exported, those of the merged model for an adapter.
        asked: compare with PyTorch: True fails where it is missing, None does where it is there and memory allows.

    Raises:
        RunError: a library is missing though asked for, or the folder does not load.
    """
    same = _read_back(source, written, exported)
    say(f"read back: {same.leaves} arrays, {len(same.unequal)} differ")
    skipped = None if asked else _reason_to_skip(exported, written, asked)
    facts: dict[str, Any] = {"form": exported.form.value, "dtype": str(written.dtype), "skipped": skipped}
    if skipped:
        say(f"PyTorch: not compared: {skipped}")
        return write_certificate(exported.folder, same, None, **facts)
    parity, rounding = _compared(source, written, exported)
    _say_parity(parity, say)
    if rounding is not None:
        say(f"rounding to {written.dtype} moves logits by {rounding.max_rel:.2g} of the largest (limit {ROUNDING:g})")
        facts["rounding"] = {**asdict(rounding), "tolerance": ROUNDING}
    fits = rounding is None or rounding.max_rel <= ROUNDING
    return write_certificate(exported.folder, same, parity, rounding_passed=fits, **facts)


def _read_back(source: Exportable, written: Leaves, exported: Exported) -> Reimport:
    if exported.form is not Form.ADAPTER:
        return reimport(exported.folder, written, source.config_of(exported.form))
    assert source.adapted is not None and isinstance(source.config, Llama3MedConfig)
    base = exported.folder / BASE
    of_base = reimport(base, source.adapted.base, source.config)
    return both(of_base, reimport_adapter(exported.folder, base, source.adapted.factors, source.config))


def _reason_to_skip(exported: Exported, written: Leaves, asked: bool | None) -> str | None:
    if asked is False:
        return "--noverify"
    needed = ("torch", "transformers", *(["peft"] if exported.form is Form.ADAPTER else []))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (pip install 'biomedgpt-jax[hf]' peft)"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needs = 4 * written.count
    if needs > MEMORY_SHARE * memory:
        return (
            f"{needs / 1e9:.1f} GB of float32 weights are more than {MEMORY_SHARE:.0%} of this machine's memory; "
            "--verify compares all the same"
        )
    return None


def _compared(source: Exportable, written: Leaves, exported: Exported) -> tuple[Parity, Stage | None]:
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=1, context=1))
    config = source.config_of(exported.form)
    with jax.default_matmul_precision("highest"):
        if isinstance(config, VitConfig):
            images = _noise(2, config.image_size)
            return verify_tower(exported.folder, images, _tower_features(config, written, images)), None
        model, prompts = _language_model(config), _prompts(source, config)
        exact = source.leaves_of(exported.form)
        versions = [written] if written.dtype == exact.dtype else [written, exact]
        # Leaves are read on the host, outside of the mesh.
        ours, *unrounded = (_ours(config, model, _loaded(model, leaves, mesh), source) for leaves in versions)
        with jax.set_mesh(mesh):
            rounding = _rounding(ours, unrounded[0], prompts) if unrounded else None
            return verify(exported.folder, prompts, ours, new_tokens=NEW_TOKENS), rounding


def _rounding(rounded: Ours, exact: Ours, prompts: list[Prompt]) -> Stage:
    pairs = [(rounded.stages(prompt)["logits"], exact.stages(prompt)["logits"]) for prompt in prompts]
    first, second = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return stage("rounding", first, second)


def _language_model(config: LlamaConfig | Llama3MedConfig) -> ModelFns:
    if isinstance(config, LlamaConfig):
        return make_decoder(config, compute_dtype=FLOAT32, remat=Remat.NONE)
    return make_llama3_med(config, compute_dtype=FLOAT32, remat=NO_REMAT, lora=None)


def _loaded(model: ModelFns, leaves: Leaves, mesh: Mesh) -> Params:
    """The values of the leaves in float32, over all local devices."""
    like = leaf_paths(placed(model, mesh))
    return from_leaf_paths(
        {path: jax.device_put(leaves[path].astype(np.float32), like[path].sharding) for path in leaves}
    )


def _ours(config: LlamaConfig | Llama3MedConfig, model: ModelFns, params: Params, source: Exportable) -> Ours:
    tokenizer = source.tokenizer
    image_id = tokenizer.image_token_id if tokenizer and isinstance(config, Llama3MedConfig) else -1
    stop_ids = tuple(tokenizer.stop_ids) if tokenizer else ()

    @jax.jit
    def all_logits(params: Params, batch: Batch) -> jax.Array:
        return model.unembed(params, model.forward(params, batch))[0]

    def stages(prompt: Prompt) -> dict[str, np.ndarray]:
        logits = np.asarray(all_logits(params, _batch(prompt, image_id)))
        vision = _vision_stages(config, params, prompt.images) if isinstance(config, Llama3MedConfig) else {}
        return {**vision, "logits": logits}

    def answer(prompt: Prompt, count: int) -> list[int]:
        batch = _batch(prompt, image_id)
        room = batch["tokens"].shape[1] + count
        out = greedy(model, params, batch, max_new_tokens=count, stop_ids=stop_ids, cache_length=room)
        return out.tokens[0, : out.lengths[0]].tolist()

    return Ours(stages, answer)


def _vision_stages(config: Llama3MedConfig, params: Params, images: np.ndarray) -> dict[str, np.ndarray]:
    if not len(images):
        return {}
    encode = jax.jit(make_encoder(config.vision, compute_dtype=FLOAT32))
    connector = Functional(lambda rngs: make_connector(config.connector, rngs=rngs))
    features = encode(params["tower"], images)
    vectors = jax.jit(lambda params, features: connector.bind(params)(features))(params.get("connector", {}), features)
    return {"tower": np.asarray(features), "connector": np.asarray(vectors)}


def _tower_features(config: VitConfig, leaves: Leaves, images: np.ndarray) -> dict[str, np.ndarray]:
    """As `exported_tower` names them: the last hidden state, which only CLIP gives before its last norm."""
    pooled = tower_family(config) is TowerFamily.CLIP
    params = from_leaf_paths({path: jnp.asarray(leaves[path].astype(np.float32)) for path in leaves})
    last, normed = (
        np.asarray(
            make_tower_encoder(config, Features(-1, final_norm=norm, keep_prefix=True))(params, jnp.asarray(images))
        )
        for norm in (False, True)
    )
    return {"tower": last, "pooled": normed[:, 0]} if pooled else {"tower": normed}


def _prompts(source: Exportable, config: LlamaConfig | Llama3MedConfig) -> list[Prompt]:
    """Held-out questions where the run's data is still there, else a noise picture; for a decoder alone, any tokens."""
    if isinstance(config, LlamaConfig):
        rng = np.random.default_rng(0)
        none = np.zeros((0, 1, 1, 3), np.uint8)
        drawn = rng.integers(0, config.vocab_size, (NUM_PROMPTS, RANDOM_TOKENS), dtype=np.int32)
        return [Prompt(f"random-{number}", tokens, none) for number, tokens in enumerate(drawn)]
    assert source.tokenizer is not None and source.template and source.geometry
    spec = ModelSpec(config, None, source.template, source.geometry)
    transform, size = image_transform(spec), config.image_size
    noise = Sample("noise", (0,), (Turn("What is shown?", ""),), {})
    prompts = []
    for sample, pictures in _held_out(source) or [(noise, list(_noise(1, size)))]:
        encoded = encode_prompt(sample, template(spec), source.tokenizer)
        tokens, _, _ = expand(encoded, config.tokens_per_image, source.tokenizer.image_token_id)
        images = [picture if isinstance(picture, np.ndarray) else transform(picture) for picture in pictures]
        prompts.append(Prompt(sample.id, tokens, np.array(images, np.uint8).reshape(-1, size, size, 3)))
    return prompts


def _held_out(source: Exportable) -> list[tuple[Sample, list[bytes]]]:
    for folder in source.held_out.folders:
        if Path(folder).is_dir():
            split = PreparedSplit(folder, source.held_out.split)
            chosen = [split[number] for number in range(0, len(split), max(1, len(split) // NUM_PROMPTS))]
            return [(sample, [split.image(n) for n in sample.images]) for sample in chosen[:NUM_PROMPTS]]
    return []


def _noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _batch(prompt: Prompt, image_token_id: int) -> Batch:
    """One row; image tokens take the features in order."""
    length = len(prompt.tokens)
    index = np.full(length, -1, np.int32)
    places = np.flatnonzero(prompt.tokens == image_token_id)
    index[places] = np.arange(len(places))
    row: Any = {
        "tokens": prompt.tokens[None],
        "targets": np.zeros((1, length), np.int32),
        "loss_weights": np.zeros((1, length), np.float32),
        "segment_ids": np.ones((1, length), np.int32),
        "positions": np.arange(length, dtype=np.int32)[None],
        "image_index": index[None],
        "images": prompt.images[None],
    }
    return row


def _say_parity(parity: Parity, say: Callable) -> None:
    for each in parity.stages:
        say(f"{each.name}: largest difference {each.max_abs:.2g} ({each.max_rel:.2g} of the largest)")
    greedy_equal = "" if parity.greedy_equal is None else f", greedy answers equal: {parity.greedy_equal}"
    versions = ", ".join(f"{name} {version}" for name, version in parity.versions.items())
    say(f"argmax equal {parity.argmax_agreement:.1%}{greedy_equal} ({parity.architecture}; {versions})")
