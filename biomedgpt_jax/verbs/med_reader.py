"""How a Llama3-Med is asked: a conversation with images through its template."""

from collections.abc import Mapping, Sequence

import numpy as np

from biomedgpt_jax.data.batches import empty_batch, fill_row
from biomedgpt_jax.data.rows import ImageRef
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.data.tasks import encode_prompt, expanded_length
from biomedgpt_jax.verbs.assistant import ContextFull, Prompt, Reader, Request, rounded
from biomedgpt_jax.verbs.loaded_model import LoadedModel
from biomedgpt_jax.verbs.model_spec import image_transform, template
from biomedgpt_jax.verbs.scoring import BUCKET
from biomedgpt_jax.verbs.training_data import row_shape


class MedReader(Reader):
    """Question, answer and what was said before may take `context` tokens together."""

    remembers, barred, trie = True, (), None

    def __init__(self, loaded: LoadedModel, context: int):
        self.name, self.model, self.params = loaded.name, loaded.model, loaded.model.ready(loaded.params)
        self.mesh, self.tokenizer, self.longest = loaded.mesh, loaded.tokenizer, context
        self._spec, self._transform = loaded.spec, image_transform(loaded.spec)

    def square(self, image: ImageRef) -> np.ndarray:
        return self._transform(image.read(), name=image.name)

    def prompt(self, request: Request) -> Prompt:
        pixels = tuple(map(self.square, request.images))
        sample = Sample(request.id, tuple(range(len(pixels))), request.turns, {})
        encoded = encode_prompt(sample, template(self._spec), self.tokenizer)
        length, most = expanded_length(encoded, self._spec.model.tokens_per_image), request.manner.max_new_tokens
        if length + most > self.longest:
            raise ContextFull(
                f"the context is full: {length} tokens so far ({len(pixels)} images of "
                f"{self._spec.model.tokens_per_image}) and {most} for the answer are more than --context={self.longest}"
            )
        return Prompt(encoded, pixels, length, most, request.manner)

    def batch(self, prompts: Sequence[Prompt]) -> Mapping[str, np.ndarray]:
        """Right-padded; image slots are rounded up too."""
        length = min(rounded(max(prompt.tokens for prompt in prompts), BUCKET), self.longest)
        images = max(len(prompt.pixels) for prompt in prompts)
        shape = row_shape(self._spec, self.tokenizer, length, rounded(images, 1) if images else 0)
        batch = empty_batch(len(prompts), shape, 1)
        for row, prompt in enumerate(prompts):
            fill_row(batch, row, [prompt.encoded], [row], [prompt.pixels], shape)
        del batch["samples"]
        return batch
