"""The published cleaning of texts, by hand."""

import pytest

from biomedgpt_jax.data.text_cleaning import clean_caption, clean_question, without_punctuation


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (",.!?*#:;~What  Is\tthis?", "what is this?"),
        ("is the X-ray AP/PA, or-not", "is the x ray ap pa, or not"),
        ("one two three four five six seven eight nine", "one two three four five six seven eight"),
        ("a -  b", "a b"),
    ],
)
def test_questions_and_captions(text: str, cleaned: str) -> None:
    assert clean_question(text, 8) == clean_caption(text, 8) == cleaned


def test_a_masked_name_is_a_person_in_a_caption() -> None:
    assert clean_caption("Seen by <PERSON>", 9) == "seen by person"
    assert clean_question("seen by <person>", 9) == "seen by <person>"


def test_captions_to_learn_keep_their_case() -> None:
    assert without_punctuation("The heart, (mildly) enlarged; no X-ray. ", 6) == "The heart mildly enlarged no Xray"
    assert without_punctuation("A b c", 2) == "A b"
