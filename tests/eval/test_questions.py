from dataclasses import replace

import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.eval.questions import Question, data_hash, to_question

META = {"answer_type": "CLOSED", "task": "organ", "image_sha256": "ab"}
TURN = Turn("<image>\nWhat is shown?", "Chest")


def test_to_question_takes_what_scoring_needs():
    assert to_question(Sample("s1", (0,), (TURN,), META)) == Question(
        "s1", "What is shown?", "Chest", "closed", "organ", "ab", (), "ab"
    )
    assert to_question(Sample("s1", (0,), (TURN,), META | {"case": "c7"})).cluster == "c7"
    with pytest.raises(RunError, match="s1 has 2 turns"):
        to_question(Sample("s1", (0,), (TURN, TURN), META))
    with pytest.raises(RunError, match="s1 has no answer_type in its meta"):
        to_question(Sample("s1", (0,), (TURN,), {"task": "organ"}))


def test_data_hash_sees_content_not_order(questions):
    assert data_hash(questions[::-1]) == data_hash(questions)
    first = questions[0]
    assert data_hash([replace(first, cluster="x")]) == data_hash([first])  # moves the interval, not the data
    changed = [replace(first, image="other"), replace(first, choices=("yes", "no")), replace(first, truth="no")]
    assert len({data_hash([q]) for q in [first, *changed]}) == 4
    assert data_hash([replace(first, truth="\ud800")])  # half a surrogate pair, as JSON can hold
