"""Answers questions about images: one as it is written, many in batches, or a conversation.

    biomedgpt generate --model=runs/instruct --image=scan.png --question="Which organ is shown?"
    biomedgpt generate --model=exports/instruct --image a.png b.png --question="What changed?" --temperature=0.7
    biomedgpt generate --model=runs/instruct --questions=asked.jsonl --out=answers.jsonl
    biomedgpt generate --model=runs/caption --image=scan.png --question="Describe it." --beams=5 --no_repeat=3
    biomedgpt generate --model=runs/instruct --chat

The model is a run, an imported model or a Hugging Face folder. Pictures and DICOM files are read; without --image a
question is text alone. --question may repeat: the answers then are JSON rows. A questions file has rows {"id",
"images": [...], "question"}, with image paths relative to the file; every row gets a row of output, and one that cannot
be answered an `error` in it. In a chat, /image PATH shows a picture, /reset forgets everything and /quit ends; a
BiomedGPT answers each question alone, about the picture that was shown last.
"""

from pathlib import Path

from absl import flags

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.rows import BadRow, ImageBytes
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.eval.beam import Beams
from biomedgpt_jax.eval.row_decode import Sampling
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.assistant import Assistant, Manner, Request
from biomedgpt_jax.verbs.chat import Conversation, aloud, chat
from biomedgpt_jax.verbs.interrupts import sure_ctrl_c
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.question_rows import Asked, answer_rows, read_questions, write_rows
from biomedgpt_jax.verbs.reader_flags import define_reader, open_reader

EXAMPLE = 'biomedgpt generate --model=runs/small --image=scan.png --question="Which organ is shown?"'
SEVERAL = ("image",)
OF_BEAMS = ("length_penalty", "no_repeat", "min_length")
SAMPLING = ("temperature", "top_p", "top_k", "seed")


def define(values: flags.FlagValues) -> None:
    define_reader(values)
    flags.DEFINE_list("image", [], "Image files, for every --question.", flag_values=values)
    flags.DEFINE_multi_string("question", None, "A question; may repeat.", flag_values=values)
    flags.DEFINE_string("questions", None, "JSONL file of questions.", flag_values=values)
    flags.DEFINE_bool("chat", False, "Talk in the terminal.", flag_values=values)
    flags.DEFINE_string("out", None, "JSONL file of answers; the terminal if not set.", flag_values=values)
    flags.DEFINE_integer("max_new_tokens", 128, "Length limit of an answer.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("temperature", 0.0, "0: the likeliest answer.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("top_p", 1.0, "Keep the likeliest words of this total.", flag_values=values)
    flags.DEFINE_integer("top_k", 0, "Keep so many words; 0: all.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "For sampling.", flag_values=values)
    flags.DEFINE_integer("beams", 0, "Search with so many beams; 0: none.", lower_bound=0, flag_values=values)
    flags.DEFINE_float("length_penalty", 0.0, "Of --beams: power of the length that divides.", flag_values=values)
    flags.DEFINE_integer("no_repeat", 0, "Of --beams: so many words stand once.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("min_length", 1, "Of --beams: tokens of an answer.", lower_bound=0, flag_values=values)


def run(values: flags.FlagValues) -> None:
    command_line.require(values, "model", EXAMPLE)
    if not (values.questions or values.chat):
        command_line.require(values, "question", EXAMPLE)
    if sum(map(bool, (values.question, values.questions, values.chat))) > 1:
        raise UsageError("--question, --questions and --chat are three ways to ask; choose one.")
    if any(not question.strip() for question in values.question or []):
        raise UsageError("--question is empty; write what is asked.")
    missing = [name for name in values.image if not Path(name).is_file()]
    if missing:
        comma = " A comma separates files; one in a name goes through --questions." if len(values.image) > 1 else ""
        raise UsageError(f"--image: there is no file {missing[0]}.{comma}")
    if values.out and Path(values.out).is_dir():
        raise UsageError(f"--out={values.out} is a folder, expected the name of a file.")
    if values.image and not values.question:
        raise UsageError("--image belongs to --question; a questions file names its own, a chat takes /image PATH.")
    sampling = Sampling(values.temperature, values.top_k, values.top_p)
    manner, beams = Manner(sampling, values.max_new_tokens, (values.seed, 0)), _beams(values)
    rows = _rows(values)
    reader = open_reader(values, EXAMPLE)
    with sure_ctrl_c() as check:
        assistant = Assistant(reader, min(values.batch_rows, max(1, len(rows))), between=check, beams=beams)
        if values.chat:
            chat(Conversation(assistant, manner))
        elif len(rows) == 1 and isinstance(rows[0], Asked) and values.question and not values.out:
            _answer_aloud(assistant, rows[0], manner)
        else:
            with progress() as advance:
                answered = answer_rows(assistant, rows, manner, advance)
                write_rows(answered, len(rows), Path(values.out) if values.out else None)


def _beams(values: flags.FlagValues) -> Beams | None:
    """Raises UsageError for settings of beams without them, or of sampling with them."""
    said = "--beams does not draw; leave out" if values.beams else "--beams=N is missing for"
    for name in SAMPLING if values.beams else OF_BEAMS:
        if values[name].value != values[name].default:
            raise UsageError(f"{said} --{name}.")
    if not values.beams:
        return None
    if values.min_length > values.max_new_tokens:
        raise UsageError(f"--min_length={values.min_length} is more than --max_new_tokens={values.max_new_tokens}.")
    return Beams(values.beams, values.length_penalty, values.no_repeat, values.min_length)


def _rows(values: flags.FlagValues) -> list[Asked | BadRow]:
    if values.questions:
        return read_questions(Path(values.questions))
    images = tuple(ImageBytes(Path(name).read_bytes(), name) for name in values.image)
    return [Asked(str(number), question, images) for number, question in enumerate(values.question or [], 1)]


def _answer_aloud(assistant: Assistant, asked: Asked, manner: Manner) -> None:
    try:
        for piece in aloud(assistant, Request(asked.id, (Turn(asked.question, ""),), asked.images, manner)):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print()
        raise RunError("interrupted before the answer was whole.") from None
    print()
