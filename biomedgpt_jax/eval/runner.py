"""Ask a model every question of a split once, score the answers, write them down."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from etils import epath

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.eval.alignment import alignment
from biomedgpt_jax.eval.candidates import Chosen
from biomedgpt_jax.eval.compare import PREDICTIONS, SCORES
from biomedgpt_jax.eval.metrics import normalise
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.eval.questions import Question
from biomedgpt_jax.eval.summary import Answered, Summary, cluster_labels, score, summarise

Generate = Callable[[dict[str, np.ndarray]], Chosen | tuple[np.ndarray, np.ndarray]]
ToText = Callable[[list[int]], str]
Progress = Callable[[int, int, float | None], None]  # answered, all, seconds left (None before the first batch)


def answer_all(
    batches: Iterable[Mapping[str, np.ndarray]],
    questions: Sequence[Question],
    generate: Generate,
    to_text: ToText,
    protocol: Protocol,
    progress: Progress | None = None,
) -> list[Answered]:
    """Every question answered and scored exactly once, in the order of `questions`.

    batches: dicts of the model's arrays with one prompt per row, and `samples` int32 [b 1] (or [b]): the
        row's position in `questions`, -1 for a padding row.
    generate: batch without `samples` -> tokens int32 [b t], lengths int32 [b] (`decode.greedy` with its
        arguments bound), or `Chosen`, whose probabilities of a question's choices are kept.
    to_text: token ids -> text, special tokens left out.
    Raises RunError where a question is asked twice, never, or does not exist.
    """
    answers: dict[int, Answered] = {}
    start = time.monotonic()
    if progress:
        progress(0, len(questions), None)
    for batch in batches:
        batch = dict(batch)
        samples = np.asarray(batch.pop("samples")).reshape(len(batch["tokens"]), -1)
        if (samples[:, 1:] >= 0).any():
            raise RunError("an evaluation batch has several samples in one row; decoding needs one prompt per row")
        rows = np.flatnonzero(samples[:, 0] >= 0)
        if not len(rows):
            continue
        said = generate(batch)
        tokens, lengths = said[:2]
        likely = _class_scores(said, to_text) if isinstance(said, Chosen) else lambda question, row: None
        for row in rows.tolist():
            number = int(samples[row, 0])
            _check_number(number, questions, answers)
            text = to_text(np.asarray(tokens[row, : lengths[row]]).tolist()).strip()
            truncated = bool(lengths[row] == tokens.shape[1])
            question = questions[number]
            answers[number] = Answered(
                question, text, truncated, score(protocol, question, text), likely(question, row)
            )
        if progress:
            rate = (time.monotonic() - start) / len(answers)
            progress(len(answers), len(questions), rate * (len(questions) - len(answers)))
    missing = [question.id for n, question in enumerate(questions) if n not in answers]
    if missing:
        raise RunError(
            f"{len(missing)} of {len(questions)} questions were never asked, for example "
            f"{', '.join(missing[:3])}. The batches must hold the whole split, without dropping a remainder"
        )
    return [answers[n] for n in range(len(questions))]


def evaluate(
    batches: Iterable[Mapping[str, np.ndarray]],
    questions: Sequence[Question],
    generate: Generate,
    to_text: ToText,
    protocol: Protocol,
    *,
    train: Iterable[Question],
    train_source: str,
    folder: str,
    facts: Mapping[str, Any],
    progress: Progress | None = None,
) -> tuple[Summary, list[Answered]]:
    """`answer_all`, summarised, with predictions.jsonl and scores.json in `folder`; of several processes one writes.

    train, train_source: where the majority baseline comes from. facts: what else scores.json should say
    (model, checkpoint, decoding settings), JSON values.
    """
    repeated = len(questions) - len({question.id for question in questions})
    if not questions or repeated:
        raise RunError(f"a split to score needs distinct questions; found {len(questions)}, {repeated} ids repeated")
    answered = answer_all(batches, questions, generate, to_text, protocol, progress)
    summary = summarise(protocol, answered, train, train_source)
    if is_leader():
        write(folder, summary, answered, facts)
    return summary, answered


def write(folder: str, summary: Summary, answered: Sequence[Answered], facts: Mapping[str, Any]) -> None:
    """Write predictions.jsonl and scores.json, each complete or not at all; scores.json comes last."""
    clusters = cluster_labels([row.question for row in answered])
    lines = [
        json.dumps(
            {
                "id": row.question.id,
                "question": row.question.question,
                "truth": row.question.truth,
                "prediction": row.prediction,
                "answer_type": row.question.answer_type,
                "task": row.question.task,
                "cluster": cluster,
                "truncated": row.truncated,
                "scores": row.scores,
                **({"question_type": row.question.question_type} if row.question.question_type else {}),
                **({"classes": row.question.classes} if row.question.classes else {}),
                **({} if row.class_scores is None else {"class_scores": dict(row.class_scores)}),
                **_instructed(row),
            }
        )
        for row, cluster in zip(answered, clusters, strict=True)
    ]
    root = epath.Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    _write_whole(root / PREDICTIONS, "\n".join(lines) + "\n")
    obeyed = {"alignment": [asdict(each) for each in found]} if (found := alignment(answered)) else {}
    put = sorted({row.question.instruction.name for row in answered if row.question.instruction is not None})
    said = {**facts, "instructions": put} if put else dict(facts)
    scores = {**summary.to_json(), **obeyed, "facts": said}
    _write_whole(root / SCORES, json.dumps(scores, indent=1, allow_nan=False) + "\n")


def _instructed(row: Answered) -> dict[str, Any]:
    """The prompt and what was read out of the answer, which stands as it was said in `prediction`."""
    asked = row.question.instruction
    if asked is None:
        return {}
    said = {"instruction": asked.name, "prompt": asked.prompt, "form": asked.form.type}
    return {**said, "answer": row.question.answer_in(row.prediction)}


def _write_whole(path: epath.Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


def _class_scores(said: Chosen, to_text: ToText) -> Callable[[Question, int], dict[str, float] | None]:
    """(question, row) -> the log-probability of each of its choices; None where it has none, or one not in the list."""
    columns: dict[str, list[int]] = {}
    for column, answer in enumerate(said.answers):
        columns.setdefault(normalise(to_text(list(answer))), []).append(column)

    def of(question: Question, row: int) -> dict[str, float] | None:
        found = {choice: columns.get(normalise(choice), []) for choice in question.choices}
        if not found or not all(found.values()):
            return None
        return {choice: float(np.logaddexp.reduce(said.log_probs[row, named])) for choice, named in found.items()}

    return of


def _check_number(number: int, questions: Sequence[Question], answers: Mapping[int, Answered]) -> None:
    if number >= len(questions):
        raise RunError(f"an evaluation batch asks sample {number}, but the split has {len(questions)} questions")
    if number in answers:
        raise RunError(f"sample {questions[number].id} was asked twice; an evaluation goes through the split once")
