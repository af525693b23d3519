"""Five small questions about three images, shared by the scoring tests."""

import pytest

from biomedgpt_jax.eval.protocols import STRICT_V1
from biomedgpt_jax.eval.questions import Question
from biomedgpt_jax.eval.summary import Answered, score


def ask(number: int, question: str, truth: str, answer_type: str, image: str) -> Question:
    return Question(f"q{number}", question, truth, answer_type, "vqa", image, (), image)


@pytest.fixture
def questions() -> list[Question]:
    return [
        ask(0, "Is there air?", "Yes", "closed", "a"),
        ask(1, "Is it big?", "No", "closed", "a"),
        ask(2, "Is it left?", "no", "closed", "b"),
        ask(3, "Which organ?", "Liver", "open", "b"),
        ask(4, "Which <organ>?", "Brain", "open", "c"),
    ]


@pytest.fixture
def train(questions) -> list[Question]:
    """The majority answers are "No" (closed) and "liver" (open)."""
    return [*questions[:3], ask(5, "Which?", "liver", "open", "z")]


@pytest.fixture
def answered(questions):
    """A function: predictions -> the questions answered with them under strict/v1."""

    def answer(*predictions: str, asked=None) -> list[Answered]:
        pairs = zip(questions if asked is None else asked, predictions, strict=True)
        return [Answered(q, text, False, score(STRICT_V1, q, text)) for q, text in pairs]

    return answer
