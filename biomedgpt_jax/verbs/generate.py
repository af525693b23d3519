"""Answers questions about images: one as it is written, many in batches, or a conversation.

    biomedgpt generate --model=runs/instruct --image=scan.png --question="Which organ is shown?"
    biomedgpt generate --model=exports/instruct --image a.png b.png --question="What changed?" --temperature=0.7
    biomedgpt generate --model=runs/instruct --questions=asked.jsonl --out=answers.jsonl
    biomedgpt generate --model=runs/instruct --chat

The model is a run, an imported model or a Hugging Face folder. Pictures and DICOM files are read; without --image a
question is text alone. --question may repeat: the answers then are JSON rows. A questions file has rows {"id",
"images": [...], "question"}, with image paths relative to the file; every row gets a row of output, and one that cannot
be answered an `error` in it. In a chat, /image PATH shows a picture, /reset forgets everything and /quit ends.
"""

import sys
from pathlib import Path

import jax
from absl import flags

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.rows import BadRow, ImageBytes
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.eval.decode import Sampling
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.asking import Manner, make_prompt, written
from biomedgpt_jax.verbs.biomedgpt_spec import TASKS, holds_biomedgpt
from biomedgpt_jax.verbs.chat import Conversation, chat
from biomedgpt_jax.verbs.loaded_model import LoadedModel, define_model, load_model
from biomedgpt_jax.verbs.loaded_pairs import load_pairs
from biomedgpt_jax.verbs.model_spec import DTYPES, image_transform
from biomedgpt_jax.verbs.pair_asking import PairManner, answer_pair_rows
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.question_rows import Asked, answer_rows, read_questions, write_rows

EXAMPLE = 'biomedgpt generate --model=runs/small --image=scan.png --question="Which organ is shown?"'
SEVERAL = ("image",)


def define(values: flags.FlagValues) -> None:
    define_model(values)
    flags.DEFINE_list("image", [], "Image files, for every --question.", flag_values=values)
    flags.DEFINE_multi_string("question", None, "A question; may repeat.", flag_values=values)
    flags.DEFINE_string("questions", None, "JSONL file of questions.", flag_values=values)
    flags.DEFINE_bool("chat", False, "Talk in the terminal.", flag_values=values)
    flags.DEFINE_string("out", None, "JSONL file of answers; the terminal if not set.", flag_values=values)
    flags.DEFINE_integer("batch_rows", 8, "Questions answered together.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("max_new_tokens", 128, "Length limit of an answer.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "context", 4096, "Tokens that question and answer may take together.", lower_bound=2, flag_values=values
    )
    flags.DEFINE_float("temperature", 0.0, "0: the likeliest answer.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("top_p", 1.0, "Keep the likeliest words of this total.", flag_values=values)
    flags.DEFINE_integer("top_k", 0, "Keep so many words; 0: all.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "For sampling.", flag_values=values)
    flags.DEFINE_enum("task", None, list(TASKS), "BiomedGPT: how a question is put.", flag_values=values)
    flags.DEFINE_integer("image_size", 0, "BiomedGPT: pixels, if not as the folder says.", flag_values=values)
    flags.DEFINE_bool("open", False, "BiomedGPT: any words, not its closed list.", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Of the weights.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    folder = Path(command_line.require(values, "model", EXAMPLE))
    if not (values.questions or values.chat):
        command_line.require(values, "question", EXAMPLE)
    if sum(map(bool, (values.question, values.questions, values.chat))) > 1:
        raise UsageError("--question, --questions and --chat are three ways to ask; choose one.")
    missing = [name for name in values.image if not Path(name).is_file()]
    if missing:
        raise UsageError(f"--image: there is no file {missing[0]}.")
    if values.image and not values.question:
        raise UsageError("--image belongs to --question; a questions file names its own, a chat takes /image PATH.")
    manner = Manner(
        sampling=Sampling(values.temperature, values.top_k, values.top_p),
        max_new_tokens=values.max_new_tokens,
        context=values.context,
        key=jax.random.key(values.seed),
    )
    rows = _rows(values)
    if holds_biomedgpt(folder):
        _answer_pairs(values, folder, rows, manner.sampling)
        return
    loaded = load_model(folder, values.step, values.dtype, template=values.template, geometry=values.geometry)
    if values.chat:
        chat(Conversation(loaded, manner))
    elif len(rows) == 1 and values.question and not values.out:
        _answer_aloud(loaded, values.question[0], values.image, manner)
    else:
        with progress() as advance:
            write_rows(
                answer_rows(loaded, rows, manner, values.batch_rows, advance), Path(values.out) if values.out else None
            )


def _answer_pairs(values: flags.FlagValues, folder: Path, rows: list[Asked | BadRow], sampling: Sampling) -> None:
    if values.chat:
        raise UsageError("--chat: a BiomedGPT answers single questions; use --question or --questions.")
    said = {"task": values.task} if values.task else {}
    said |= {"image_size": values.image_size} if values.image_size else {}
    loaded = load_pairs(folder, values.step, values.dtype, said, "")
    manner = PairManner(sampling, values.max_new_tokens, values.open, jax.random.key(values.seed))
    with progress() as advance:
        together = min(values.batch_rows, len(rows))
        answered = answer_pair_rows(loaded, rows, manner, together, advance)
        if len(rows) > 1 or values.questions or values.out:
            write_rows(answered, Path(values.out) if values.out else None)
            return
        (row,) = answered
    if "error" in row:
        raise RunError(row["error"])
    print(row["answer"])


def _rows(values: flags.FlagValues) -> list[Asked | BadRow]:
    if values.questions:
        return read_questions(Path(values.questions))
    images = tuple(ImageBytes(Path(name).read_bytes(), name) for name in values.image)
    return [Asked(str(number), question, images) for number, question in enumerate(values.question or [], 1)]


def _answer_aloud(loaded: LoadedModel, question: str, images: list[str], manner: Manner) -> None:
    transform = image_transform(loaded.spec)
    pixels = [transform(Path(name).read_bytes(), name=name) for name in images]
    sample = Sample("question", tuple(range(len(pixels))), (Turn(question, ""),), {})
    for piece in written(loaded, make_prompt(loaded, sample, pixels, manner), manner):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
