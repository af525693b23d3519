import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.layers.relative_bias import code_bias, image_bias, image_buckets, text_bias, text_buckets

TEXT = {  # distance of the query from the key -> row of the table; facts, section 3.5
    0: 255, 1: 256, -1: 254, 127: 382, 128: 383, 129: 384, 130: 384, 140: 389, 200: 411, 256: 426, 400: 453,
    512: 468, 800: 495, 1000: 509, 1023: 510, -1023: 0, -200: 99, 2000: 510, -2000: 0,
}  # fmt: skip
IMAGE = {(1, 1): 3444, (1, 2): 3443, (2, 1): 3445, (1, 43): 3361, (43, 1): 3527, (1764, 1): 6888}
BEGIN = {(0, 5): 6889, (5, 0): 6890, (0, 0): 6891}


def test_text_buckets_are_the_published_ones():
    rows = text_buckets(2001, buckets=256, reach=1024)
    assert {distance: rows[distance + 2000] for distance in TEXT} == TEXT


def test_image_buckets_are_the_published_ones():
    for pair, row in (IMAGE | BEGIN).items():
        assert image_buckets(np.array(pair), grid=42)[0, 1] == row


@pytest.mark.parametrize("places", [1, 7, 40])
def test_the_bias_of_words_is_the_table_read_pair_by_pair(places):
    table = np.random.default_rng(0).normal(size=(15, 2)).astype(np.float32)
    rows = text_buckets(places, buckets=8, reach=32)
    distance = np.arange(places)[:, None] - np.arange(places)
    expected = table[rows[distance + places - 1]].transpose(2, 0, 1)
    np.testing.assert_array_equal(text_bias(jnp.asarray(table), places, reach=32), expected)


@pytest.mark.parametrize("shape", [(3, 5), (6, 2), (6, 6), (1, 1)])
def test_the_bias_of_patches_is_the_table_read_pair_by_pair(shape):
    table = np.random.default_rng(0).normal(size=(11**2 + 3, 2)).astype(np.float32)
    ids = (np.arange(shape[0])[:, None] * 6 + np.arange(shape[1]) + 1).reshape(-1)
    expected = table[image_buckets(ids, grid=6)].transpose(2, 0, 1)
    np.testing.assert_array_equal(image_bias(jnp.asarray(table), shape, grid=6), expected)


@pytest.mark.parametrize("places", [4, 10, 13])
def test_the_bias_of_codes_knows_their_beginning_and_ends_behind_the_last(places):
    table = np.random.default_rng(0).normal(size=(11**2 + 3, 2)).astype(np.float32)
    ids = np.array([0, *(np.arange(3)[:, None] * 6 + np.arange(3) + 1).reshape(-1)])[:places]
    expected = np.zeros((2, places, places), np.float32)
    expected[:, : len(ids), : len(ids)] = table[image_buckets(ids, grid=6)].transpose(2, 0, 1)
    np.testing.assert_array_equal(code_bias(jnp.asarray(table), places, codes=3, grid=6), expected)
