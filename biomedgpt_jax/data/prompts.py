"""Chat templates as data, and the one function that renders a conversation to spans with its loss mask."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

IMAGE = "<image>"


class Kind(Enum):
    TEXT = "text"
    SPECIAL = "special"  # a token of the vocabulary, by its literal name
    IMAGE = "image"
    END = "end"  # the tokenizer's own end of text


@dataclass(frozen=True)
class Span:
    """A piece of a rendered conversation. `supervised` pieces are what the model learns to write."""

    kind: Kind
    text: str = ""
    supervised: bool = False


@dataclass(frozen=True)
class Template:
    """How turns become text. A turn: before_question, question, before_answer, gap + answer, after_answer.

    `gap` stands between `before_answer` and the answer and is learned with it, so that a generation prompt
    is a prefix of the training text, token for token. Without `keep_questions` only images stay of questions.
    """

    opening: tuple[Span, ...]
    before_question: tuple[Span, ...]
    before_answer: tuple[Span, ...]
    gap: str
    after_answer: tuple[Span, ...]
    keep_questions: bool


def text(words: str, supervised: bool = False) -> Span:
    return Span(Kind.TEXT, words, supervised)


def special(name: str, supervised: bool = False) -> Span:
    return Span(Kind.SPECIAL, name, supervised)


def _llama3_header(role: str) -> tuple[Span, ...]:
    return special("<|start_header_id|>"), text(role), special("<|end_header_id|>"), text("\n\n")


def _vicuna(end_of_answer: str) -> Template:
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    )
    return Template(
        opening=(text(system),),
        before_question=(text("USER: "),),
        before_answer=(text(" ASSISTANT:"),),
        gap=" ",
        after_answer=(special(end_of_answer, supervised=True),),
        keep_questions=True,
    )


_ALIGN = Template(
    opening=(),
    before_question=(),
    before_answer=(),
    gap="",
    after_answer=(text("\n", supervised=True),),
    keep_questions=False,
)
_ALIGN_EOS = Template(
    opening=(),
    before_question=(),
    before_answer=(),
    gap="",
    after_answer=(text("\n", supervised=True), Span(Kind.END, supervised=True)),
    keep_questions=False,
)
_LLAMA3 = Template(
    opening=(
        *_llama3_header("system"),
        # The trailing space is part of the published text (token 220).
        text("You are a helpful language and vision assistant. "),
        special("<|eot_id|>"),
    ),
    before_question=_llama3_header("user"),
    before_answer=(special("<|eot_id|>"), *_llama3_header("assistant")),
    gap="",
    after_answer=(special("<|eot_id|>", supervised=True),),
    keep_questions=True,
)
_CHATML = Template(
    opening=(),
    before_question=(special("<|im_start|>"), text("user\n")),
    before_answer=(special("<|im_end|>"), text("\n"), special("<|im_start|>"), text("assistant\n")),
    gap="",
    after_answer=(special("<|im_end|>", supervised=True), text("\n", supervised=True)),
    keep_questions=True,
)

TEMPLATES: dict[str, Template] = {
    "align": _ALIGN,  # stage 1 as published: image, caption, newline, and no end of text
    "align_eos": _ALIGN_EOS,  # the same with an end of text, so that a caption can stop
    "llama3": _LLAMA3,
    "chatml": _CHATML,  # SmolLM2, Qwen2 and others, without a system message
    "phi": _vicuna("<|endoftext|>"),
    "qwen": _vicuna("<|endoftext|>"),
    "stablelm": _vicuna("<|endoftext|>"),
    "llama": _vicuna("</s>"),  # TinyLlama, Llama 2
    "gemma": _vicuna("<eos>"),
}


def render(template: Template, turns: Iterable[tuple[str, str | None]]) -> list[Span]:
    """Spans of a conversation of (question, answer) pairs; `<image>` in a question stands for an image.

    Questions and answers are stripped of white space at both ends. A last answer of None gives the
    generation prompt: it ends where the model must begin to write. Neighbouring text of one kind is one span,
    because it is tokenised as one.
    """
    spans = list(template.opening)
    for question, answer in turns:
        spans += template.before_question
        spans += _question(template, question.strip())
        spans += template.before_answer
        if answer is None:
            break
        spans.append(text(template.gap + answer.strip(), supervised=True))
        spans += template.after_answer
    return _join(spans)


def _question(template: Template, question: str) -> list[Span]:
    chunks = question.split(IMAGE)
    spans: list[Span] = []
    for number, chunk in enumerate(chunks):
        if number:
            spans.append(Span(Kind.IMAGE))
        if template.keep_questions:
            spans.append(text(chunk))
    return spans


def _join(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if span.kind is Kind.TEXT and not span.text:
            continue
        if last and span.kind is last.kind is Kind.TEXT and span.supervised == last.supervised:
            joined[-1] = text(last.text + span.text, span.supervised)
        else:
            joined.append(span)
    return joined
