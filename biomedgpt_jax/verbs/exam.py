"""What is asked of a model: the questions of a prepared split, and those that its majority baseline comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.instructions.reword import Choose, InstructedSplit
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.eval.questions import Question, to_question
from biomedgpt_jax.eval.runner import Generate


@dataclass(frozen=True)
class Exam:
    """A split with its questions. Of data without a training split `train_questions` is empty: no baseline.

    `remember` may wrap what makes answers, so that an exam that broke off goes on.
    """

    split: PreparedSplit
    questions: tuple[Question, ...]
    train_source: str
    train_questions: tuple[Question, ...]
    remember: Callable[[Generate], Generate] = lambda generate: generate

    @property
    def folder_name(self) -> str:
        """Of its results inside a run; without the way to the data, which may be long or absolute."""
        return f"{self.split.directory.resolve().name}_{self.split.split}"

    @property
    def instructed(self) -> bool:
        """Whether any question is put in a wording that is not the data set's."""
        return any(question.instruction is not None for question in self.questions)


def exam(path: str, split: str, train_split: str, limit: int = 0, choose: Choose | None = None) -> Exam:
    """Asks all questions of the split, or `limit` of them, evenly spread.

    Args:
        train_split: "" where there is none.
        choose: the wording in which a question is put; None: as it stands.

    Raises:
        DataError, RunError: a split that is not there, or cannot be scored.
    """
    asked = PreparedSplit(path, split) if choose is None else InstructedSplit(path, split, choose)
    if limit:
        asked = asked.spread(limit)
    if not train_split:
        return Exam(asked, split_questions(asked), "", ())
    trained = PreparedSplit(path, train_split)
    return Exam(asked, split_questions(asked), trained.name, split_questions(trained))


def exams(paths: Sequence[str], split: str, train_split: str) -> list[Exam]:
    """One for each of `paths`.

    Raises:
        UsageError: two sets of one name. DataError, RunError: as `exam`.
    """
    found = [exam(path, split, train_split) for path in paths]
    names = [each.folder_name for each in found]
    if len(set(names)) < len(names):
        raise UsageError(f"Two evaluation sets would write to one folder: {', '.join(names)}. Rename one of them.")
    return found


def split_questions(split: PreparedSplit) -> tuple[Question, ...]:
    """Raises RunError for a sample that cannot be scored."""
    return tuple(map(to_question, split.samples(range(len(split)))))
