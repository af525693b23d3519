"""Answers of an evaluation that broke off are not made again."""

import numpy as np

from biomedgpt_jax.eval.candidates import Chosen
from biomedgpt_jax.eval.journal import kept


def batch(number):
    return {"tokens": np.full((2, 3), number, np.int32)}


def test_batches_are_made_once_and_in_their_order(tmp_path):
    made = []

    def generate(given):
        made.append(int(given["tokens"][0, 0]))
        return given["tokens"] + 100, np.array([3, 2])

    first = kept(tmp_path, generate)
    said = [first(batch(number)) for number in (7, 7, 8)]
    again = kept(tmp_path, generate)
    for number, before in zip((7, 7, 8), said, strict=True):
        tokens, lengths = again(batch(number))[:2]
        np.testing.assert_array_equal(tokens, before[0])
        np.testing.assert_array_equal(lengths, [3, 2])
    assert made == [7, 7, 8]
    # Other questions at a place that is known, and a file that was cut.
    assert kept(tmp_path, generate)(batch(9))[0][0, 0] == 109
    (file,) = tmp_path.glob("000002-*.npz")
    file.write_bytes(file.read_bytes()[:20])
    cut = kept(tmp_path, generate)
    assert [cut(batch(number))[0][0, 0] for number in (7, 7, 8)] == [107, 107, 108]
    assert made == [7, 7, 8, 9, 8]


def test_probabilities_of_a_closed_list_are_made_anew(tmp_path):
    chosen = Chosen(np.zeros((2, 1)), np.ones(2), ((4,),), np.zeros((2, 1)))
    assert kept(tmp_path, lambda given: chosen)(batch(1)) is chosen
    assert not list(tmp_path.iterdir())
