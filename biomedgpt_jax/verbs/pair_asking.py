"""`biomedgpt eval` on a BiomedGPT."""

from pathlib import Path

import jax

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.eval.beam import Beams
from biomedgpt_jax.eval.decode import GREEDY
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.loaded_pairs import LoadedPairs, load_pairs
from biomedgpt_jax.verbs.model_spec import lookup
from biomedgpt_jax.verbs.pair_answers import METHODS, Answering
from biomedgpt_jax.verbs.pair_scoring import PairScorer, pair_scorers


def pair_scorer(folder: Path, step: int | None, config: Config, chosen: Protocol) -> tuple[LoadedPairs, PairScorer]:
    """The model in a folder and the split of `configs/eval.py`, ready to be asked.

    Raises:
        UsageError: settings that the model cannot follow. DataError, RunError: a folder that cannot be read.
    """
    pairs = config.pairs
    lookup("pairs.method", pairs.method, METHODS)
    if config.features:
        raise UsageError("config.features: a BiomedGPT reads images; leave it empty.")
    said = {name: pairs[name] for name in ("image_size", "task", "hint", "words") if pairs[name]}
    loaded = load_pairs(folder, step, config.dtype, said, pairs.answers)
    how = Answering(
        method=pairs.method,
        beams=Beams(pairs.beams, pairs.length_penalty, pairs.no_repeat, 0),
        sampling=GREEDY,
        max_new_tokens=config.max_new_tokens,
        answers=() if pairs.open else loaded.answers,
        key=jax.random.key(0),
    )
    (scorer,) = pair_scorers(
        loaded.spec,
        loaded.tokenizer,
        (config.data,),
        config.split,
        train_split=config.train_split,
        protocol=chosen,
        batch_rows=config.batch_rows,
        how=how,
    )
    return loaded, scorer
