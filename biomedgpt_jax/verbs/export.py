"""Turns a run into a Hugging Face folder, reads it back, and proves that it is the same model.

    biomedgpt export --model=runs/instruct --out=exports/instruct

One scale and a CLIP or SigLIP tower give a stock LLaVA folder; anything else brings its own small modeling file.
Adapters are merged. parity.json is the certificate: the weights read back bit for bit and, where torch and
transformers are installed (or always with --verify), logits and greedy answers computed by them.
"""

import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from biomedgpt_jax.convert.card import Card, Origin, Score
from biomedgpt_jax.convert.export import Exported, export_model
from biomedgpt_jax.convert.parity import Parity, Prompt, Reimport, reimport, verify, write_certificate
from biomedgpt_jax.convert.processing import ExportText
from biomedgpt_jax.core.lora import merge_lora
from biomedgpt_jax.core.types import Batch, ModelFns, Params
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.data.source import PreparedSplit, Sample, Turn
from biomedgpt_jax.data.tasks import encode_prompt, expand
from biomedgpt_jax.data.tokenizer_export import to_tokenizer_json
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.models.llama3_med import make_llama3_med
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.loaded_model import LoadedModel, load_model
from biomedgpt_jax.verbs.model_spec import DTYPES, REMAT, image_transform, template

EXAMPLE = "biomedgpt export --model=runs/small --out=exports/small"
NUM_PROMPTS = 4
NEW_TOKENS = 16


@dataclass(frozen=True)
class Plain:
    """The model with its adapters merged, in float32."""

    model: ModelFns
    params: Params


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("model", None, "Workdir of a run.", flag_values=values)
    flags.DEFINE_integer("step", None, "Checkpoint to take; the newest if not set.", flag_values=values)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Of the weights written.", flag_values=values)
    flags.DEFINE_bool("verify", False, "Fail where torch and transformers are not there.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    folder = Path(command_line.require(values, "model", EXAMPLE))
    out = Path(command_line.require(values, "out", EXAMPLE))
    say = make_console().print
    loaded = load_model(folder, values.step, "float32")
    config = json.loads((folder / "config.json").read_text())
    with jax.set_mesh(loaded.mesh):
        plain = _plain(loaded)
        exported = _export(loaded, plain, config, out, values.dtype)
        say(f"{exported.form.value} in {out}", markup=False)
        for warning in exported.warnings:
            say(f"note: {warning}", markup=False)
        same = reimport(out, plain.params, loaded.spec.model, values.dtype)
        parity = _verify(loaded, plain, config, out, values)
    write_certificate(out, same, parity)
    return _say_outcome(say, same, parity)


def _plain(loaded: LoadedModel) -> Plain:
    lora = loaded.spec.lora
    if lora is None:
        return Plain(loaded.model, loaded.params)
    model = make_llama3_med(loaded.spec.model, compute_dtype=DTYPES["float32"], remat=REMAT["none"], lora=None)
    return Plain(model, merge_lora(loaded.params, lora))


def _export(loaded: LoadedModel, plain: Plain, config: dict[str, Any], out: Path, dtype: str) -> Exported:
    tokenizer = loaded.tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        to_tokenizer_json(tokenizer, scratch, template(loaded.spec))
        text = ExportText(
            tokenizer_folder=Path(scratch),
            bos_id=tokenizer.bos_id,
            stop_ids=tuple(tokenizer.stop_ids),
            pad_id=tokenizer.pad_id,
            image_id=tokenizer.image_token_id,
            context=config["data"]["row_tokens"],
            template=loaded.spec.template,
        )
        params = jax.device_get(plain.params)
        return export_model(
            out, params, loaded.spec.model, text, loaded.spec.geometry, _card(loaded, config), dtype=dtype
        )


def _card(loaded: LoadedModel, config: dict[str, Any]) -> Card:
    origins, scores = [], []
    for name in config["data"]["paths"]:
        manifest = read_manifest(Path(name))
        origins.append(Origin(manifest.title, "training data", manifest.licence, manifest.fingerprint))
    for file in sorted(Path(loaded.name.split(" step ")[0]).glob(f"eval/step_{_step(loaded)}/*/scores.json")):
        summary = json.loads(file.read_text())
        scores += [_score(file.parent.name, summary, group) for group in summary["groups"]]
    return Card(
        title="Llama3-Med",
        licence="other",
        origins=tuple(origins),
        scores=tuple(scores),
        notes=("The licence follows from those of its parts and data; see the table.",),
    )


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


def _step(loaded: LoadedModel) -> str:
    return loaded.name.split(" step ")[1]


def _verify(
    loaded: LoadedModel, plain: Plain, config: dict[str, Any], out: Path, values: flags.FlagValues
) -> Parity | None:
    installed = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if not (installed or values.verify) or values.dtype != "float32":
        return None

    @jax.jit
    def all_logits(batch: Batch) -> jax.Array:
        return plain.model.unembed(plain.params, plain.model.forward(plain.params, batch))[0]

    def answer(prompt: Prompt, count: int) -> list[int]:
        batch = _batch(prompt, loaded.tokenizer.image_token_id)
        decoded = greedy(
            plain.model,
            plain.params,
            batch,
            max_new_tokens=count,
            stop_ids=tuple(loaded.tokenizer.stop_ids),
            cache_length=batch["tokens"].shape[1] + count,
        )
        return decoded.tokens[0, : decoded.lengths[0]].tolist()

    def logits(prompt: Prompt) -> np.ndarray:
        with jax.default_matmul_precision("highest"):
            return np.asarray(all_logits(_batch(prompt, loaded.tokenizer.image_token_id)))

    return verify(out, _prompts(loaded, config), logits, answer, new_tokens=NEW_TOKENS)


def _prompts(loaded: LoadedModel, config: dict[str, Any]) -> list[Prompt]:
    """Held-out questions where the run's data is still there, else a grey picture and a plain question."""
    transform = image_transform(loaded.spec)
    samples = _held_out(config) or [_grey(loaded)]
    prompts = []
    for sample, pictures in samples:
        encoded = encode_prompt(sample, template(loaded.spec), loaded.tokenizer)
        tokens, _, _ = expand(encoded, loaded.spec.model.tokens_per_image, loaded.tokenizer.image_token_id)
        size = loaded.spec.model.image_size
        images = [picture if isinstance(picture, np.ndarray) else transform(picture) for picture in pictures]
        prompts.append(Prompt(sample.id, tokens, np.array(images, np.uint8).reshape(-1, size, size, 3)))
    return prompts


def _held_out(config: dict[str, Any]) -> list[tuple[Sample, list[bytes]]]:
    for name in config["eval"]["paths"]:
        if Path(name).is_dir():
            split = PreparedSplit(name, config["eval"]["split"])
            chosen = [split[number] for number in range(0, len(split), max(1, len(split) // NUM_PROMPTS))]
            return [(sample, [split.image(n) for n in sample.images]) for sample in chosen[:NUM_PROMPTS]]
    return []


def _grey(loaded: LoadedModel) -> tuple[Sample, list[np.ndarray]]:
    size = loaded.spec.model.image_size
    picture = np.full((size, size, 3), 128, np.uint8)
    return Sample("grey", (0,), (Turn("What is shown?", ""),), {}), [picture]


def _batch(prompt: Prompt, image_token_id: int) -> dict[str, np.ndarray]:
    """One row; image tokens take the features in order."""
    length = len(prompt.tokens)
    index = np.full(length, -1, np.int32)
    places = np.flatnonzero(prompt.tokens == image_token_id)
    index[places] = np.arange(len(places))
    return {
        "tokens": prompt.tokens[None],
        "targets": np.zeros((1, length), np.int32),
        "loss_weights": np.zeros((1, length), np.float32),
        "segment_ids": np.ones((1, length), np.int32),
        "positions": np.arange(length, dtype=np.int32)[None],
        "image_index": index[None],
        "images": prompt.images[None],
    }


def _say_outcome(say: Any, same: Reimport, parity: Parity | None) -> int:
    say(f"read back: {same.leaves} arrays, {len(same.unequal)} differ", markup=False)
    if parity is None:
        say("transformers: not compared (pip install 'biomedgpt-jax[hf]', then export again)", markup=False)
    else:
        say(
            f"transformers: largest logit difference {parity.max_abs:.2g} ({parity.max_rel:.2g} of the largest), "
            f"argmax equal {parity.argmax_agreement:.1%}, greedy answers equal: {parity.greedy_equal}",
            markup=False,
        )
    return 0 if same.passed and (parity is None or parity.passed) else 1
