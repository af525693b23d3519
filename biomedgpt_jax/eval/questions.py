"""What is asked and what is true: the rows of a prepared split, as evaluation needs them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.instructions.form import Form, form_of, read_back
from biomedgpt_jax.data.source import Sample

# What makes a question another one; the rest says how answers are grouped.
HASHED = ("id", "question", "truth", "answer_type", "task", "choices", "image")


@dataclass(frozen=True)
class Instruction:
    """How a question was put: the name of the wording, the whole prompt, and the form that it demands."""

    name: str
    prompt: str
    form: Form


@dataclass(frozen=True)
class Question:
    """One question of a split. `cluster` is what the bootstrap resamples: the case, else the image."""

    id: str
    question: str
    truth: str
    answer_type: str  # "open" or "closed"
    task: str
    cluster: str | None
    choices: tuple[str, ...]  # () where the data set states none
    image: str  # sha256 of the image (several are joined by "+"), or "" for text alone
    question_type: str = ""  # the data set's own word for it; "" where it has none
    classes: tuple[str, ...] = ()  # of which the answer names any number, where it is of that kind
    instruction: Instruction | None = None  # None: it is asked as it stands

    def answer_in(self, prediction: str) -> str:
        """What is compared with the truth: the answer without the form that was demanded of it."""
        return prediction if self.instruction is None else read_back(self.instruction.form, prediction)

    @property
    def group(self) -> tuple[str, str]:
        return self.task, self.answer_type

    @property
    def meta(self) -> dict[str, Any]:
        """What a protocol may know besides prediction and truth."""
        return {
            "answer_type": self.answer_type,
            "question": self.question,
            "choices": self.choices,
            "classes": self.classes,
        }


def to_question(sample: Sample) -> Question:
    """The question of a sample with one turn; RunError names the sample that cannot be scored."""
    if len(sample.turns) != 1:
        raise RunError(
            f"sample {sample.name} has {len(sample.turns)} turns; scoring needs one question and one answer. "
            "Prepare the evaluation split with one sample per question"
        )
    missing = [key for key in ("answer_type", "task") if not sample.meta.get(key)]
    if missing:
        raise RunError(
            f"sample {sample.name} has no {' nor '.join(missing)} in its meta; scoring needs an answer_type ('open' or "
            "'closed') and a task (such as 'vqa'). Give both to each row of the raw data and prepare it again"
        )
    (turn,), meta = sample.turns, sample.meta
    image = meta.get("image_sha256") or meta.get("image_name") or ""
    image = image if isinstance(image, str) else "+".join(image)
    asked, answer, instruction = turn.question, turn.answer, None
    if "form" in meta:
        form = form_of(meta["form"], f"sample {sample.name}")
        instruction = Instruction(str(meta.get("instruction", "")), turn.question, form)
        asked, answer = str(meta.get("plain_question", asked)), read_back(form, answer)
    return Question(
        id=sample.id,
        question=asked.replace("<image>", "").strip(),
        truth=answer,
        answer_type=str(meta["answer_type"]).lower(),
        task=str(meta["task"]),
        cluster=str(meta.get("case") or image) or None,
        choices=tuple(meta.get("choices") or ()),
        image=image,
        question_type=str(meta.get("question_type") or ""),
        classes=tuple(meta.get("classes") or ()),
        instruction=instruction,
    )


def data_hash(questions: Iterable[Question]) -> str:
    """sha256 of every question, truth, group, choice list, image hash and instruction, in the order of the ids."""
    digest = hashlib.sha256()
    for question in sorted(questions, key=lambda q: q.id):
        row = {name: getattr(question, name) for name in HASHED}
        if question.instruction is not None:
            row |= {"prompt": question.instruction.prompt, "form": question.instruction.form.to_json()}
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
