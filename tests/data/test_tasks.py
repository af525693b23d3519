"""The rules of a sample: image count, order and place, truncation, expansion."""

import numpy as np
import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.tasks import PLACEHOLDER, encode_sample, expand, expanded_length, truncate
from biomedgpt_jax.data.tokenizers import Tokenizer

LLAMA3 = TEMPLATES["llama3"]


@pytest.mark.parametrize("question", ["<image><image>\nSame?", "Same?\n<image><image>", "<image> or <image>?"])
def test_images_stand_where_the_question_puts_them(question: str, small_sp: Tokenizer) -> None:
    encoded = encode_sample(Sample("s", (5, 2), (Turn(question, "No"),)), LLAMA3, small_sp)
    tokens, supervised, index = expand(encoded, 3, small_sp.image_token_id, first_slot=4)
    assert index[index >= 0].tolist() == [12, 13, 14, 15, 16, 17]
    assert (tokens[index >= 0] == small_sp.image_token_id).all() and (tokens >= 0).all()
    assert not supervised[index >= 0].any()
    assert len(tokens) == expanded_length(encoded, 3) == len(encoded.ids) + 4
    shown = small_sp.decode(np.where(encoded.ids == PLACEHOLDER, small_sp.image_token_id, encoded.ids), False)
    assert question in shown
    assert encoded.images == (5, 2)


def test_unplaced_images_come_first(small_sp: Tokenizer) -> None:
    placed = Sample("s", (1, 2), (Turn("<image>\n<image>\nSame?", "No"),))
    unplaced = Sample("s", (1, 2), (Turn("Same?", "No"),))
    ids = [encode_sample(s, LLAMA3, small_sp).ids.tolist() for s in (placed, unplaced)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("images", "turns", "reason"),
    [
        ((1,), [("<image><image> q", "a")], "2 <image> in its questions, but 1 images"),
        ((), [("<image> q", "a")], "1 <image> in its questions, but 0 images"),
        ((1,), [("q", "see <image>")], "stands in an answer"),
        ((), [("q", "a"), ("q", " \n")], "answer of turn 2 is empty"),
        ((), [], "no turn"),
    ],
)
def test_broken_samples_are_named(images: tuple, turns: list, reason: str, small_sp: Tokenizer) -> None:
    with pytest.raises(DataError, match=f"sample s-77: .*{reason}"):
        encode_sample(Sample("s-77", images, tuple(Turn(*t) for t in turns)), LLAMA3, small_sp)


def test_truncation_cuts_only_the_end_of_the_last_answers(small_sp: Tokenizer) -> None:
    encoded = encode_sample(Sample("s", (1,), (Turn("<image>\nq", "the brain " * 20),)), LLAMA3, small_sp)
    full = expanded_length(encoded, 16)
    cut = truncate(encoded, full - 10, 16)
    assert expanded_length(cut, 16) == full - 10
    assert cut.ids.tolist() == encoded.ids[:-10].tolist() and cut.images == (1,)
    assert truncate(encoded, full, 16).ids.tolist() == encoded.ids.tolist()
    prompt = full - int(encoded.supervised.sum())
    assert truncate(encoded, prompt + 1, 16).supervised.sum() == 1
    with pytest.raises(DataError, match=r"sample s: .*no supervised token is left"):
        truncate(encoded, prompt, 16)


def test_truncation_never_cuts_an_image(small_sp: Tokenizer) -> None:
    turns = (Turn("What?", "brain"), Turn("And <image>?", "an aneurysm"))
    encoded = encode_sample(Sample("s", (1,), turns), LLAMA3, small_sp)
    place = int(np.flatnonzero(encoded.ids == PLACEHOLDER)[0])
    with pytest.raises(DataError, match="image would be cut"):
        truncate(encoded, place + 15, 16)
    assert truncate(encoded, place + 16, 16).ids[-1] == PLACEHOLDER


def test_first_token_is_never_supervised(small_sp: Tokenizer) -> None:
    encoded = encode_sample(Sample("s", (), (Turn("q", "the brain"),)), TEMPLATES["align"], small_sp)
    assert encoded.ids[0] == small_sp.bos_id and encoded.supervised.tolist()[:2] == [False, True]
