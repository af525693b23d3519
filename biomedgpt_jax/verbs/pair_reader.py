"""How a BiomedGPT is asked: one question with at most one image, answered openly or from its closed list."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_batches import PairFields, PairShape, empty_pair_batch, fill_pair_row
from biomedgpt_jax.data.pair_encoding import EncodedPair, encode_pair_prompt
from biomedgpt_jax.data.rows import ImageRef
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.eval.trie_decode import place_trie
from biomedgpt_jax.models.biomedgpt_positions import UNUSED
from biomedgpt_jax.verbs.assistant import ContextFull, Prompt, Reader, Request, rounded
from biomedgpt_jax.verbs.biomedgpt_spec import pair_image
from biomedgpt_jax.verbs.loaded_pairs import LoadedPairs
from biomedgpt_jax.verbs.pair_answers import GIVEN_STEP, SOURCE_STEP

PATCH = 16  # pixels of the side of what the encoder takes for one token


class PairReader(Reader):
    """An answer from the model's closed list, if it has one and not `open`, is given whole.

    Who asks knows no metadata of the picture: a model that was trained with a hint is asked without.
    """

    remembers = False

    def __init__(self, loaded: LoadedPairs, *, open: bool):
        tokenizer = loaded.tokenizer
        self.name, self.model, self.params = loaded.name, loaded.model, loaded.model.ready(loaded.params)
        self.mesh, self.tokenizer = loaded.mesh, tokenizer
        self.longest = loaded.spec.model.text_positions - UNUSED
        self.barred = tokenizer.unsaid
        self.trie, self._least = None, 0
        if loaded.answers and not open:
            trie = build_trie(loaded.answers)
            self.trie = place_trie(trie, stop_ids=(tokenizer.eos_id,), vocab_size=tokenizer.vocab_size)
            self._least = trie.longest + 1  # with its end
        self._words, self._spec, self._transform = tokenizer, replace(loaded.spec, hint=""), pair_image(loaded.spec)

    def square(self, image: ImageRef) -> np.ndarray:
        return self._transform(image.read(), name=image.name)

    def prompt(self, request: Request) -> Prompt:
        if len(request.turns) > 1:
            raise DataError("this model answers single questions: ask without the turns before")
        pixels = tuple(map(self.square, request.images))
        sample = Sample(request.id, tuple(range(len(pixels))), request.turns, {})
        pair = encode_pair_prompt(sample, self._spec.rules, self._words, self._spec.limits)
        patches = (self._spec.image_size // PATCH) ** 2 * len(pixels)
        given, most = 1 + len(pair.given), max(request.manner.max_new_tokens, self._least)
        if given + most > self.longest:
            raise ContextFull(
                f"the decoder has {self.longest} places: {given} are taken, and {most} more for the answer are too many"
            )
        return Prompt(pair, pixels, len(pair.source) + patches + given, most, request.manner)

    def batch(self, prompts: Sequence[Prompt]) -> Mapping[str, np.ndarray]:
        """Of the shape that holds the longest."""
        pairs: list[EncodedPair] = [prompt.encoded for prompt in prompts]
        shape = PairShape(
            min(rounded(max(len(pair.source) for pair in pairs), SOURCE_STEP), self.longest),
            min(rounded(max(1 + len(pair.given) for pair in pairs), GIVEN_STEP), self.longest),
        )
        pictured = any(prompt.pixels for prompt in prompts)
        size = (self._spec.image_size, self._spec.image_size) if pictured else None
        batch = empty_pair_batch(len(prompts), shape, PairFields(size))
        for row, prompt in enumerate(prompts):
            fill_pair_row(batch, row, prompt.encoded, 0, prompt.pixels[0] if prompt.pixels else None, weight=0.0)
        del batch["samples"]
        return batch
