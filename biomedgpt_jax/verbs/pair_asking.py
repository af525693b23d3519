"""`biomedgpt eval` and `biomedgpt generate` on a BiomedGPT."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_batches import PairFields, PairShape, empty_pair_batch, fill_pair_row
from biomedgpt_jax.data.pair_encoding import EncodedPair, encode_pair_prompt
from biomedgpt_jax.data.rows import BadRow
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.eval.beam import Beams
from biomedgpt_jax.eval.decode import GREEDY, Sampling
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.verbs.biomedgpt_spec import pair_image
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.loaded_pairs import LoadedPairs, load_pairs
from biomedgpt_jax.verbs.model_spec import lookup
from biomedgpt_jax.verbs.pair_answers import METHODS, Answering, answerer, prompt_shapes
from biomedgpt_jax.verbs.pair_scoring import PairScorer, pair_scorers
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.question_rows import Asked, row_facts

OPEN = Beams(1, 0.0, 0, 0)


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


@dataclass(frozen=True)
class PairManner:
    """How `generate` answers: `open` answers, or from the model's closed list where it has one."""

    sampling: Sampling
    max_new_tokens: int
    open: bool
    key: jax.Array


def answer_pair_rows(
    loaded: LoadedPairs, rows: Sequence[Asked | BadRow], manner: PairManner, batch_rows: int, advance: Advance
) -> Iterator[dict[str, Any]]:
    """For each row, in order, a JSON object with `answer` and `truncated`, or with `error`."""
    for first in range(0, len(rows), batch_rows):
        part = rows[first : first + batch_rows]
        prompts = [_prompt(loaded, row) for row in part]
        now = replace(manner, key=jax.random.fold_in(manner.key, first))
        said = _answers(loaded, prompts, now, batch_rows)
        for number, (row, prompt) in enumerate(zip(part, prompts, strict=True)):
            yield {**row_facts(row), **({"error": prompt} if isinstance(prompt, str) else said[number])}
        advance("answer", min(first + batch_rows, len(rows)), len(rows))


def _answers(
    loaded: LoadedPairs, prompts: Sequence["_Prompt | str"], manner: PairManner, rows: int
) -> dict[int, dict[str, Any]]:
    """Of each prompt by its place, made together where shapes are the same; rows that are left repeat the last one."""
    answers = () if manner.open else loaded.answers
    how = Answering("sample", OPEN, manner.sampling, manner.max_new_tokens, answers, manner.key)
    ask = answerer(loaded.model, loaded.params, loaded.tokenizer, how)
    groups: dict[tuple[PairShape, bool], list[int]] = {}
    for place, prompt in enumerate(prompts):
        if isinstance(prompt, _Prompt):
            groups.setdefault((prompt_shapes([prompt.pair])[0], prompt.pixels is not None), []).append(place)
    said = {}
    for (shape, pictured), places in groups.items():
        size = (loaded.spec.image_size, loaded.spec.image_size) if pictured else None
        batch = empty_pair_batch(rows, shape, PairFields(size))
        for row in range(rows):
            prompt: Any = prompts[places[min(row, len(places) - 1)]]
            fill_pair_row(batch, row, prompt.pair, 0, prompt.pixels, weight=0.0)
        del batch["samples"]
        with jax.set_mesh(loaded.mesh):
            tokens, lengths = ask(batch)[:2]
        for row, place in enumerate(places):
            text = loaded.tokenizer.decode(tokens[row, : lengths[row]].tolist()).strip()
            said[place] = {"answer": text, "truncated": bool(lengths[row] == tokens.shape[1])}
    return said


@dataclass(frozen=True)
class _Prompt:
    pair: EncodedPair
    pixels: np.ndarray | None


def _prompt(loaded: LoadedPairs, row: Asked | BadRow) -> _Prompt | str:
    """The prompt and its picture, or what is wrong with the row."""
    if isinstance(row, BadRow):
        return row.reason
    try:
        pixels = [pair_image(loaded.spec)(image.read(), name=image.name) for image in row.images]
        sample = Sample(row.id, tuple(range(len(pixels))), (Turn(row.question, ""),), {})
        prompt = encode_pair_prompt(sample, loaded.spec.rules, loaded.tokenizer, loaded.spec.limits)
    except (DataError, RunError, OSError) as error:
        return str(error)
    return _Prompt(prompt, pixels[0] if pixels else None)
