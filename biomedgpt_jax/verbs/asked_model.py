"""Any model that `biomedgpt eval` can ask: of a run, imported, exported, or any that transformers loads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from absl import flags

from biomedgpt_jax.checkpoint.fingerprint import leaf_records, tree_hash
from biomedgpt_jax.convert.chat_model import load_chat_model
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.host_memory import keep_freed_memory
from biomedgpt_jax.data.features import FeatureCache, FeatureReader
from biomedgpt_jax.eval.beam import Beams
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.verbs.biomedgpt_spec import as_instructions, holds_biomedgpt
from biomedgpt_jax.verbs.chat_scoring import put_to_chat_model
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.exam import Exam
from biomedgpt_jax.verbs.features import open_features
from biomedgpt_jax.verbs.linting import score_facts
from biomedgpt_jax.verbs.loaded_model import define_model, load_model
from biomedgpt_jax.verbs.loaded_pairs import load_pairs
from biomedgpt_jax.verbs.model_spec import lookup
from biomedgpt_jax.verbs.pair_answers import METHODS, Answering
from biomedgpt_jax.verbs.pair_scoring import PairScorer
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.scoring import Scorer, image_reader

Ask = Callable[[Exam, Protocol, int, Path, Advance], None]

NO_HINT = "none"  # as config.pairs.hint: no metadata is told, though the model learned with some


@dataclass(frozen=True)
class AskedModel:
    """`facts` are what scores say of the model. `ask(exam, protocol, max_new_tokens, folder, advance)` puts an exam and
    writes predictions.jsonl and scores.json.
    """

    facts: dict[str, Any]
    ask: Ask


def define_asked(values: flags.FlagValues) -> None:
    define_model(values)
    flags.DEFINE_bool("hf", False, "Ask --model, a folder or name on the hub, by transformers.", flag_values=values)
    flags.DEFINE_string("revision", None, "With --hf: of the hub's repository.", flag_values=values)


def open_model(values: flags.FlagValues, config: Config) -> AskedModel:
    """The model that the flags name, asked as a configuration like configs/eval.py says.

    Raises:
        UsageError: settings that the model cannot follow. DataError, RunError: a folder that cannot be read.
    """
    if values.hf:
        return _of_transformers(values, config)
    if values.revision:
        raise UsageError("--revision belongs to --hf, a model of the hub.")
    keep_freed_memory()
    return _pairs(values, config) if holds_biomedgpt(Path(values.model)) else _packed(values, config)


def _packed(values: flags.FlagValues, config: Config) -> AskedModel:
    folder = Path(values.model)
    loaded = load_model(folder, values.step, config.dtype, template=values.template, geometry=values.geometry)
    spec, params = loaded.spec, loaded.params
    facts = {"model": loaded.name, "model_hash": tree_hash(leaf_records(params)), "dtype": config.dtype}
    facts |= score_facts(folder)
    pictures = image_reader(spec)

    def reader(exam: Exam) -> FeatureReader | None:
        if not config.features:
            return None
        cache = FeatureCache(config.features)
        return open_features(cache, spec, params["tower"], config.dtype, [exam.split])

    def ask(exam: Exam, protocol: Protocol, max_new_tokens: int, folder: Path, advance: Advance) -> None:
        read = reader(exam) or pictures
        scorer = Scorer(spec, loaded.tokenizer, exam, read, protocol, config.batch_rows, max_new_tokens)
        with jax.set_mesh(loaded.mesh):
            scorer(loaded.model, params, folder, facts, advance)

    return AskedModel(facts, ask)


def _pairs(values: flags.FlagValues, config: Config) -> AskedModel:
    folder, pairs = Path(values.model), config.pairs
    lookup("pairs.method", pairs.method, METHODS)
    if config.features:
        raise UsageError("config.features: a BiomedGPT reads images; leave it empty.")
    beams = Beams(pairs.beams, pairs.length_penalty, pairs.no_repeat, pairs.min_length)
    said = {name: pairs[name] for name in ("image_size", "task", "hint", "words") if pairs[name]}
    if pairs.hint == NO_HINT:
        said["hint"] = ""
    loaded = load_pairs(folder, values.step, config.dtype, said, pairs.answers)
    facts = {"model": loaded.name, "model_hash": tree_hash(leaf_records(loaded.params)), "dtype": config.dtype}
    facts |= score_facts(folder)

    def ask(exam: Exam, protocol: Protocol, max_new_tokens: int, folder: Path, advance: Advance) -> None:
        if exam.instructed and pairs.method == "candidates":
            raise UsageError(
                "config.instruct leaves the words of an answer open; config.pairs.method=candidates does not."
            )
        how = Answering(
            method=pairs.method,
            beams=beams,
            max_new_tokens=max_new_tokens,
            answers=() if pairs.open or exam.instructed else loaded.answers,
        )
        spec = as_instructions(loaded.spec) if exam.instructed else loaded.spec
        scorer = PairScorer(spec, loaded.tokenizer, exam, protocol, config.batch_rows, how)
        with jax.set_mesh(loaded.mesh):
            scorer(loaded.model, loaded.params, folder, facts, advance)

    return AskedModel(facts, ask)


def _of_transformers(values: flags.FlagValues, config: Config) -> AskedModel:
    for flag in ("step", "template", "geometry"):
        if values[flag].value is not None:
            raise UsageError(f"--{flag}: with --hf a model is asked as its own folder says; leave it out.")
    if config.features:
        raise UsageError("config.features: with --hf a model reads images; leave it empty.")
    if jax.process_count() > 1:
        raise UsageError("--hf asks in one process, with one accelerator; leave --coordinator out.")
    chat = load_chat_model(values.model, values.revision, config.dtype)
    facts = {**chat.facts, **score_facts(Path(values.model))}

    def ask(exam: Exam, protocol: Protocol, max_new_tokens: int, folder: Path, advance: Advance) -> None:
        put_to_chat_model(chat, exam, protocol, config.batch_rows, max_new_tokens, folder, facts, advance)

    return AskedModel(facts, ask)
