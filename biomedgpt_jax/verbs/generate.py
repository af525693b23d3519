"""Answers a question about an image, as it is written.

    biomedgpt generate --model=runs/instruct --image=scan.png --question="Which organ is shown?"
    biomedgpt generate --model=runs/instruct --image=a.png,b.png --question="What changed?" --temperature=0.7

Several images may be given; pictures and DICOM files are read. Without --image the question is text alone.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.batches import empty_batch, fill_row
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.tasks import encode_prompt, expanded_length
from biomedgpt_jax.eval.decode import Limits, Sampling, stream
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.loaded_model import LoadedModel, define_model, load_model
from biomedgpt_jax.verbs.model_spec import DTYPES, image_transform, template
from biomedgpt_jax.verbs.training_data import row_shape

EXAMPLE = 'biomedgpt generate --model=runs/small --image=scan.png --question="Which organ is shown?"'


def define(values: flags.FlagValues) -> None:
    define_model(values)
    flags.DEFINE_list("image", [], "Image files, separated by commas.", flag_values=values)
    flags.DEFINE_string("question", None, "The question.", flag_values=values)
    flags.DEFINE_integer("max_new_tokens", 128, "Length limit of the answer.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("temperature", 0.0, "0: the likeliest answer.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("top_p", 1.0, "Keep the likeliest words of this total.", flag_values=values)
    flags.DEFINE_integer("top_k", 0, "Keep so many words; 0: all.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "For sampling.", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Of the weights.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    folder = Path(command_line.require(values, "model", EXAMPLE))
    question = command_line.require(values, "question", EXAMPLE)
    missing = [name for name in values.image if not Path(name).is_file()]
    if missing:
        raise UsageError(f"--image: there is no file {missing[0]}.")
    loaded = load_model(folder, values.step, values.dtype, template=values.template, geometry=values.geometry)
    batch = prompt(loaded, question, [Path(name) for name in values.image])
    limits = Limits(
        max_new_tokens=values.max_new_tokens,
        stop_ids=tuple(loaded.tokenizer.stop_ids),
        cache_length=batch["tokens"].shape[1] + values.max_new_tokens,
        vocab_limit=loaded.tokenizer.vocab_size,
    )
    sampling = Sampling(values.temperature, values.top_k, values.top_p)
    with jax.set_mesh(loaded.mesh):
        tokens = stream(loaded.model, loaded.params, batch, limits, sampling, jax.random.key(values.seed))
        said: list[int] = []
        shown = ""
        for token in tokens:
            said.append(int(token[0]))
            text = loaded.tokenizer.decode(said)
            # A character may be spread over several tokens; until it is whole it decodes to a replacement.
            if not text.endswith("\N{REPLACEMENT CHARACTER}") and text.startswith(shown):
                sys.stdout.write(text[len(shown) :])
                sys.stdout.flush()
                shown = text
    print(loaded.tokenizer.decode(said)[len(shown) :])


def prompt(loaded: LoadedModel, question: str, images: list[Path]) -> dict[str, np.ndarray]:
    """A batch of one row. Raises DataError for an unreadable image."""
    sample = Sample("question", tuple(range(len(images))), (Turn(question, ""),), {})
    encoded = encode_prompt(sample, template(loaded.spec), loaded.tokenizer)
    length = expanded_length(encoded, loaded.spec.model.tokens_per_image)
    shape = row_shape(loaded.spec, loaded.tokenizer, length, len(images))
    transform = image_transform(loaded.spec)
    pixels = [transform(path.read_bytes(), name=str(path)) for path in images]
    batch = empty_batch(1, shape, 1)
    fill_row(batch, 0, [encoded], [0], [pixels], shape)
    batch.pop("samples")
    return batch
