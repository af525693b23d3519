"""Questions to a loaded model: prompts of static shape, answers in batches, or one as it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.batches import empty_batch, fill_row
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.data.tasks import Encoded, encode_prompt, expanded_length
from biomedgpt_jax.eval.decode import Limits, Sampling, sample, stream
from biomedgpt_jax.verbs.loaded_model import LoadedModel
from biomedgpt_jax.verbs.model_spec import template
from biomedgpt_jax.verbs.scoring import BUCKET
from biomedgpt_jax.verbs.training_data import row_shape


@dataclass(frozen=True)
class Manner:
    """How answers are made. `context`: tokens that question and answer may take together."""

    sampling: Sampling
    max_new_tokens: int
    context: int
    key: jax.Array


@dataclass(frozen=True)
class Prompt:
    """An encoded question and the squares uint8 [h w 3] of its images."""

    encoded: Encoded
    pixels: tuple[np.ndarray, ...]
    length: int  # tokens, with those of the images


class Answer(NamedTuple):
    """`truncated`: the token limit ended it."""

    text: str
    truncated: bool


def make_prompt(loaded: LoadedModel, question: Sample, pixels: Sequence[np.ndarray], manner: Manner) -> Prompt:
    """The last turn of `question` is asked, the earlier ones are the conversation so far.

    Raises:
        RunError: the context has no room for it and an answer. DataError: images and `<image>` do not match.
    """
    encoded = encode_prompt(question, template(loaded.spec), loaded.tokenizer)
    length = expanded_length(encoded, loaded.spec.model.tokens_per_image)
    if length + manner.max_new_tokens > manner.context:
        raise RunError(
            f"the context is full: {length} tokens so far ({len(pixels)} images of "
            f"{loaded.spec.model.tokens_per_image}) and {manner.max_new_tokens} for the answer are more than "
            f"--context={manner.context}"
        )
    return Prompt(encoded, tuple(pixels), length)


def answers(loaded: LoadedModel, prompts: Sequence[Prompt], manner: Manner, *, rows: int, slots: int) -> list[Answer]:
    """One answer per prompt, made together in a batch of `rows` rows with `slots` image slots each."""
    batch = _batch(loaded, prompts, rows, slots)
    with jax.set_mesh(loaded.mesh):
        tokens, lengths = sample(
            loaded.model, loaded.params, batch, _limits(loaded, batch, manner), manner.sampling, manner.key
        )
    return [
        Answer(
            loaded.tokenizer.decode(tokens[row, : lengths[row]]).strip(), bool(lengths[row] == manner.max_new_tokens)
        )
        for row in range(len(prompts))
    ]


def written(loaded: LoadedModel, prompt: Prompt, manner: Manner) -> Iterator[str]:
    """The pieces of one answer as they are made; joined they are all of it."""
    batch = _batch(loaded, [prompt], 1, len(prompt.pixels))
    said: list[int] = []
    shown = ""
    with jax.set_mesh(loaded.mesh):
        limits = _limits(loaded, batch, manner)
        for token in stream(loaded.model, loaded.params, batch, limits, manner.sampling, manner.key):
            said.append(int(token[0]))
            text = loaded.tokenizer.decode(said)
            # A character may be spread over several tokens; until it is whole it decodes to a replacement.
            if not text.endswith("\N{REPLACEMENT CHARACTER}") and text.startswith(shown):
                yield text[len(shown) :]
                shown = text
    yield loaded.tokenizer.decode(said)[len(shown) :]


def _batch(loaded: LoadedModel, prompts: Sequence[Prompt], rows: int, slots: int) -> dict[str, np.ndarray]:
    """Right-padded to a multiple of BUCKET; rows without a prompt repeat the last one."""
    longest = max(prompt.length for prompt in prompts)
    shape = row_shape(loaded.spec, loaded.tokenizer, -(-longest // BUCKET) * BUCKET, slots)
    batch = empty_batch(rows, shape, 1)
    for row in range(rows):
        prompt = prompts[min(row, len(prompts) - 1)]
        fill_row(batch, row, [prompt.encoded], [row], [prompt.pixels], shape)
    del batch["samples"]
    return batch


def _limits(loaded: LoadedModel, batch: dict[str, np.ndarray], manner: Manner) -> Limits:
    return Limits(
        max_new_tokens=manner.max_new_tokens,
        stop_ids=tuple(loaded.tokenizer.stop_ids),
        cache_length=batch["tokens"].shape[1] + manner.max_new_tokens,
        vocab_limit=loaded.tokenizer.vocab_size,
    )
