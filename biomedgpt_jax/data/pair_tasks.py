"""A prepared sample to source and target texts of an encoder-decoder: prompts and word limits of each task.

The prompts of classification, VQA, captioning, NLI and summarisation are BiomedGPT's. Those of text-only question
answering with a context, of trial matching and of instructions are ours: its release has none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.lint.material import documents
from biomedgpt_jax.data.rows import IMAGE_PLACE, spaces
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.text_cleaning import clean_caption, clean_question, first_words, without_punctuation


class PairTask(Enum):
    """`meta.task` of a sample; any other name means VQA with an image and QUESTION without."""

    CLASSIFICATION = "classification"
    VQA = "vqa"
    CAPTION = "caption"
    NLI = "nli"  # `meta.texts` holds both sentences
    TRIAL = "trial"  # `meta.texts` holds a patient's note and a trial's criteria
    SUMMARY = "summary"  # `meta.document`, or else the question, is what is summarised
    QUESTION = "question"  # without an image; `meta.context` may hold what `meta.question` is asked about
    INSTRUCTION = "instruction"


class Prefix(Enum):
    """What the decoder is given before it answers."""

    NOTHING = "nothing"
    QUESTION = "question"  # the source without <s> and </s>
    SOURCE = "source"  # the source with its </s>; the answer is then one word without an end


@dataclass(frozen=True)
class Document:
    """The part of a source that is cut where the whole is too long."""

    text: str


@dataclass(frozen=True)
class PairText:
    """`source` pieces are encoded one by one and stand side by side; `hinted`: metadata of the image is in it."""

    source: tuple[str | Document, ...]
    target: str
    prefix: Prefix
    hinted: bool = False


@dataclass(frozen=True)
class Words:
    """Limits in words between spaces (not tokens)."""

    source: int  # of a question, of each text, of a document
    target: int  # of a caption or summary; other answers are whole or, by their tokens, too long


@dataclass(frozen=True)
class PairRules:
    """How the samples of a data set are asked.

    `task` None: as each sample says, with those in `classified` (other names of `meta.task`, such as organ) put as
    classification, without their question. `words` None: `PUBLISHED_WORDS`. `hint`: the field of `meta` that is told as
    "object: ..." (truth about the image, at test time too: scores with it are not comparable); None: none.
    """

    task: PairTask | None = None
    words: Words | None = None
    hint: str | None = None
    lower_answers: bool = True
    classified: tuple[str, ...] = ()


# From the official scripts; the sources of QUESTION, TRIAL and INSTRUCTION are ours.
PUBLISHED_WORDS: Mapping[PairTask, Words] = {
    PairTask.CLASSIFICATION: Words(128, 20),
    PairTask.VQA: Words(80, 20),
    PairTask.CAPTION: Words(80, 20),
    PairTask.NLI: Words(512, 20),
    PairTask.TRIAL: Words(512, 20),
    PairTask.SUMMARY: Words(100_000, 128),
    PairTask.QUESTION: Words(512, 128),
    PairTask.INSTRUCTION: Words(512, 128),
}
HINT_WORDS = 30
SHORT = 32  # words of a text in an instruction that is not cut
IMAGE_PROMPT = " what does the image describe?"


def pair_texts(sample: Sample, rules: PairRules, *, learned: bool = True) -> list[PairText]:
    """One pair per turn, in order; later turns do not see the earlier ones.

    Raises:
        DataError: the sample lacks what its task needs, or (if `learned`) a target is empty; it names the sample.
    """
    task = task_of(sample, rules)
    words = rules.words or PUBLISHED_WORDS[task]
    if not sample.turns:
        raise DataError(f"sample {sample.name}: it has no turn")
    pairs = []
    for number, turn in enumerate(sample.turns, 1):
        pair = _BUILDERS[task](sample, turn, words, rules)
        if learned and not pair.target.strip():
            raise DataError(f"sample {sample.name}: the target of turn {number} is empty")
        pairs.append(pair)
    return pairs


def task_of(sample: Sample, rules: PairRules) -> PairTask:
    """The task by which a sample is asked."""
    if rules.task is not None:
        return rules.task
    named = sample.meta.get("task")
    if named in rules.classified:
        return PairTask.CLASSIFICATION
    if named in {task.value for task in PairTask}:
        return PairTask(named)
    return PairTask.VQA if sample.images else PairTask.QUESTION


def _classification(sample: Sample, turn: Turn, words: Words, rules: PairRules) -> PairText:
    return PairText((IMAGE_PROMPT,), " " + _answer(turn, rules), Prefix.NOTHING)


def _vqa(sample: Sample, turn: Turn, words: Words, rules: PairRules) -> PairText:
    asked = " " + _question(sample, turn, words)
    hint = _hint(sample, rules)
    return PairText((asked + hint,), " " + _answer(turn, rules), Prefix.QUESTION, hinted=bool(hint))


def _caption(sample: Sample, turn: Turn, words: Words, rules: PairRules) -> PairText:
    return PairText((IMAGE_PROMPT,), " " + without_punctuation(turn.answer, words.target), Prefix.NOTHING)


def _two_texts(sample: Sample, turn: Turn, words: Words, rules: PairRules) -> PairText:
    texts = sample.meta.get("texts")
    if not (isinstance(texts, list) and len(texts) == 2 and all(isinstance(t, str) and t.strip() for t in texts)):
        raise DataError(
            f"sample {sample.name}: meta.texts must be the two texts that are compared, found {type(texts)}"
        )
    first, second = (Document(" " + clean_question(text, words.source)) for text in texts)
    source = (' can text1 "', first, ' " imply text2 "', second, ' "?')
    return PairText(source, " " + _answer(turn, rules), Prefix.SOURCE)


def _summary(sample: Sample, turn: Turn, words: Words, rules: PairRules) -> PairText:
    text = clean_caption(str(sample.meta.get("document", turn.question)), words.source)
    if not text:
        raise DataError(f"sample {sample.name}: the document is empty")
    document = Document(" " + text)
    # No space in front: the published models learned it so.
    target = clean_caption(turn.answer, words.target)
    return PairText((' what is the summary of article "', document, ' "?'), target, Prefix.NOTHING)


def _text_question(sample: Sample, turn: Turn, words: Words, rules: PairRules) -> PairText:
    answer, context = " " + _answer(turn, rules), sample.meta.get("context")
    if context is None:
        return PairText((" " + _question(sample, turn, words),), answer, Prefix.QUESTION)
    # The turn may hold the context too, worded for other models.
    question = _question(sample, replace(turn, question=str(sample.meta.get("question", turn.question))), words)
    document = Document(" " + clean_caption(str(context), PUBLISHED_WORDS[PairTask.SUMMARY].source))
    return PairText((f' what is the answer to question " {question} " by article "', document, ' "?'),
                    answer, Prefix.NOTHING)  # fmt: skip


def _instruction(sample: Sample, turn: Turn, words: Words, rules: PairRules) -> PairText:
    asked = spaces(turn.question.replace(IMAGE_PLACE, " ")).lower()
    if not asked:
        raise DataError(f"sample {sample.name}: an instruction is empty")
    # The long texts that it is about are cut where the whole is too long; what is asked of them stays.
    source: list[str | Document] = []
    for text in (spaces(text).lower() for text in documents(sample)):
        before, found, after = asked.partition(text) if text.count(" ") >= SHORT else (asked, "", "")
        if found:
            source += [_piece(before, words), Document(_piece(found, words))]
            asked = after
    pieces = (*source, _piece(asked, words))
    return PairText(tuple(filter(None, pieces)), " " + _answer(turn, rules), Prefix.NOTHING)


def _piece(text: str, words: Words) -> str:
    """The first words of a text that stands after another, with a space before them."""
    return " " + first_words(text.strip(), words.source) if text.strip() else ""


_BUILDERS: Mapping[PairTask, Callable[[Sample, Turn, Words, PairRules], PairText]] = {
    PairTask.CLASSIFICATION: _classification,
    PairTask.VQA: _vqa,
    PairTask.CAPTION: _caption,
    PairTask.NLI: _two_texts,
    PairTask.TRIAL: _two_texts,
    PairTask.SUMMARY: _summary,
    PairTask.QUESTION: _text_question,
    PairTask.INSTRUCTION: _instruction,
}


def _question(sample: Sample, turn: Turn, words: Words) -> str:
    asked = clean_question(turn.question.replace(IMAGE_PLACE, " ").strip(), words.source)
    if not asked:
        raise DataError(f"sample {sample.name}: a question is empty")
    return asked if asked.endswith("?") else asked + "?"


def _answer(turn: Turn, rules: PairRules) -> str:
    answer = spaces(turn.answer)
    return answer.lower() if rules.lower_answers else answer


def _hint(sample: Sample, rules: PairRules) -> str:
    if rules.hint is None:
        return ""
    told = sample.meta.get(rules.hint)
    if not isinstance(told, str):
        raise DataError(f"sample {sample.name}: no text in meta.{rules.hint}, which the rules tell as a hint")
    return f" object: {clean_question(told, HINT_WORDS)}" if told.strip() else ""
