"""What obeys an instruction's form, and what is read out of an answer, by hand."""

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.instructions.form import Form, Kind, form_of, obeys, put, read_back, sentences

ORGANS = ("left lung", "liver", "heart")
LETTER, CLASS = Form(Kind.LETTER, ORGANS), Form(Kind.CLASS, ORGANS)
JSON = Form(Kind.CLASS, ORGANS, json="answer")
SHORT, SENTENCE = Form(Kind.TEXT, words=3), Form(Kind.TEXT, sentences=1)


@pytest.mark.parametrize(
    "form, said, obeyed",
    [
        (CLASS, "Liver.", True),
        (CLASS, "the liver", False),
        (CLASS, "lung", False),
        (Form(Kind.YES_NO), "yes", True),
        (Form(Kind.YES_NO), "No.", True),
        (Form(Kind.YES_NO), "Yes, it is", False),
        (Form(Kind.YES_NO), "normal", False),
        (LETTER, "(B)", True),
        (LETTER, "c", True),
        (LETTER, "D", False),
        (LETTER, "B. liver", False),
        (SHORT, "one two three", True),
        (SHORT, "one two three four", False),
        (SHORT, " . ", False),
        (SENTENCE, "It is 2.5 cm wide.", True),
        (SENTENCE, "It is wide. It is long", False),
        (Form(Kind.TEXT, language="en"), "liver", True),
        (Form(Kind.TEXT, language="en"), "肝脏", False),
        (Form(Kind.TEXT, language="zh"), "肝脏", True),
        (Form(Kind.TEXT, language="zh"), "CT", True),
        (Form(Kind.TEXT, language="zh"), "liver", False),
        (Form(Kind.TEXT, words=2, language="zh"), "心脏大", False),
        (JSON, '{"answer": "liver"}', True),
        (JSON, '{"answer": "spleen"}', False),
        (JSON, '{"answer": "liver", "why": "x"}', False),
        (JSON, '{"organ": "liver"}', False),
        (JSON, '```{"answer": "liver"}```', False),
        (JSON, '{"answer": ["liver"]}', False),
        (JSON, "liver", False),
    ],
)
def test_obedience_is_strict(form, said, obeyed):
    assert obeys(form, said) is obeyed


@pytest.mark.parametrize(
    "form, said, answer",
    [
        (JSON, 'Here: {"Answer": "liver"} .', "liver"),
        (JSON, "liver", "liver"),
        (JSON, '{"answer": 3}', "3"),
        (JSON, '{"answer": ', '{"answer":'),
        (LETTER, "B", "liver"),
        (LETTER, "(a)", "left lung"),
        (LETTER, "Option C: heart", "heart"),
        (LETTER, "A lung", "A lung"),
        (LETTER, "E.", "E."),
        (Form(Kind.LETTER, ORGANS, json="x"), '{"x": "b"}', "liver"),
        (CLASS, "It is the liver", "It is the liver"),
    ],
)
def test_reading_back_is_lenient(form, said, answer):
    assert read_back(form, said) == answer


@pytest.mark.parametrize(
    "form, answer, said",
    [
        (LETTER, "Liver", "B"),
        (LETTER, "spleen", None),
        (CLASS, "liver", "liver"),
        (CLASS, "spleen", None),
        (JSON, "heart", '{"answer": "heart"}'),
        (SHORT, "one two three four", None),
        (Form(Kind.TEXT, json="答案"), "肝脏", '{"答案": "肝脏"}'),
    ],
)
def test_an_answer_is_put_in_its_form_and_read_back(form, answer, said):
    assert put(form, answer) == said
    if said is not None:
        assert read_back(form, said).lower() == answer.lower()


def test_a_form_is_kept_in_a_sample():
    for form in (LETTER, JSON, SHORT, SENTENCE, Form(Kind.TEXT, language="zh", json="答案")):
        assert form_of(form.to_json(), "here") == form
    for broken in ({"kind": "letter"}, {}, None, [1]):
        with pytest.raises(DataError, match=r"sample x: meta\.form is no form"):
            form_of(broken, "sample x")


def test_types_are_counted_by_their_rarest_demand():
    forms = (JSON, LETTER, CLASS, SHORT, SENTENCE, Form(Kind.TEXT, words=2, language="zh"), Form(Kind.TEXT))
    types = ["JSON", "option letter", "valid class", "length", "length", "length", "any text"]
    assert [form.type for form in forms] == types
    assert sentences("e. g. two. Three! 2.5") == 5
