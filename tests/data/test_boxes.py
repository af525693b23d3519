"""Regions follow the views of their pictures, and become the published coordinates."""

from pathlib import Path

import numpy as np
import pytest

from biomedgpt_jax.data.biomedgpt_tokens import train_biomedgpt_tokens
from biomedgpt_jax.data.boxes import Box, Jitter, box_ids, draw_jitter, read_box
from biomedgpt_jax.data.errors import DataError


def box(*corners: float) -> Box:
    return Box(*map(float, corners))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (300, 300), (20, 30)])
def test_boxes_stay_on_what_they_mark(size: tuple[int, int]) -> None:
    width, height = size
    boxes = [box(0.1 * width, 0.2 * height, 0.5 * width, 0.6 * height), box(0.7 * width, 0.5 * height, width, height)]
    seen = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        jitter = draw_jitter(width, height, boxes, 64, flips=True, rng=rng)
        seen.add(jitter)
        for marked in boxes:
            picture = np.zeros((height, width, 3), np.uint8)
            picture[round(marked.y0) : round(marked.y1), round(marked.x0) : round(marked.x1)] = 255
            rows, columns = np.nonzero(jitter.view(picture)[..., 0] > 127)
            moved = jitter.move(marked)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.array(found) - [moved.x0, moved.y0, moved.x1, moved.y1]).max() <= 3.5
    assert len(seen) > 20 and {jitter.flip for jitter in seen} == {True, False}
    scales = [jitter.scale * max(size) / 64 for jitter in seen]
    assert 1 <= min(scales) < 1.1 and 1.35 < max(scales) <= 1.5


def test_every_box_stays_in_sight() -> None:
    corners = [box(0, 0, 10, 10), box(190, 190, 200, 200)]
    for seed in range(20):
        jitter = draw_jitter(200, 200, corners, 64, flips=False, rng=np.random.default_rng(seed))
        assert not jitter.flip
        for seen in map(jitter.move, corners):
            assert seen.x1 - seen.x0 > 0 and seen.y1 - seen.y0 > 0


def test_coordinates(tmp_path: Path) -> None:
    tokens = train_biomedgpt_tokens(["a lesion"], tmp_path, 256, 4, 1000)
    # 256 pixels are half of the published scale of 512: the far corner is bin round(0.5 * 999).
    assert [i - tokens.first_bin for i in box_ids(box(0, 64, 128, 256), 256, tokens)] == [0, 125, 250, 500]


@pytest.mark.parametrize("values", ["1,2", [1, 2, 3], [5, 5, 5, 9], [0, 0, "x", 1], [-1, 0, 3, 4], None])
def test_broken_regions(values: object) -> None:
    with pytest.raises(DataError, match="a region: "):
        read_box(values)


def test_a_view_that_is_larger_than_the_picture() -> None:
    view = Jitter(1.0, 0, 0, False, 32).view(np.full((10, 20, 3), 7, np.uint8))
    assert view.shape == (32, 32, 3) and (view[:10, :20] == 7).all() and not view[10:].any()
