"""What a written mixture consists of: its size, and how often each set, task, form, modality and answer occurs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.instructions.form import form_of, read_back
from biomedgpt_jax.data.lint.material import plain
from biomedgpt_jax.data.source import PreparedSplit, Sample

FREQUENT = 5  # answers of a task that are listed
_CHUNK = 1024
CONVERSATION = "as it stands"


@dataclass(frozen=True)
class Balance:
    """Counts of samples, the most frequent first; `tokens` of questions and answers, None without a tokenizer.

    `answers`: of each kind of task with listed answers, its most frequent ones, in plain words.
    """

    samples: int
    images: int
    tokens: int | None
    sets: Mapping[str, int]
    tasks: Mapping[str, int]
    instructions: Mapping[str, int]
    forms: Mapping[str, int]
    modalities: Mapping[str, int]
    answers: Mapping[str, Mapping[str, int]]


def balance(split: PreparedSplit, modality_of: Mapping[str, str], count: Callable[[str], int] | None) -> Balance:
    """Args: modality_of: of sets by name, for samples that do not say theirs. count: the tokens of a text."""
    counted = {name: Counter[str]() for name in ("sets", "tasks", "instructions", "forms", "modalities")}
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    tokens = 0
    for start in range(0, len(split), _CHUNK):
        for sample in split.samples(range(start, min(start + _CHUNK, len(split)))):
            name = str(sample.meta.get("instruction", CONVERSATION))
            task, named = name.split("/")[0], str(sample.meta.get("from_set", ""))
            counted["sets"][named] += 1
            counted["tasks"][task] += 1
            counted["instructions"][name] += 1
            counted["modalities"][str(sample.meta.get("modality") or modality_of.get(named) or "not stated")] += 1
            counted["forms"][_form(sample, answers[task])] += 1
            if count is not None:
                tokens += sum(count(text) for turn in sample.turns for text in (turn.question, turn.answer))
    return Balance(
        samples=len(split),
        images=split.num_images,
        tokens=tokens if count is not None else None,
        **{name: dict(counter.most_common()) for name, counter in counted.items()},
        answers={task: dict(found.most_common(FREQUENT)) for task, found in sorted(answers.items()) if found},
    )


def known_modality(name: str) -> str:
    """Of a data set that is built in, "" of others."""
    return DATASETS[name].modality if name in DATASETS else ""


def _form(sample: Sample, answers: Counter[str]) -> str:
    """Counts the answer, too, where it is one of a list."""
    if "form" not in sample.meta:
        return CONVERSATION
    form = form_of(sample.meta["form"], f"sample {sample.id}")
    if sample.meta.get("answer_type") == "closed":
        answers[plain(read_back(form, sample.turns[0].answer))] += 1
    return form.type
