"""Views are drawn from the generator alone, and what would make a text false is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.augment import (
    AUGMENTATIONS,
    CAPTIONED,
    CLASSIFIED,
    CLASSIFIED_UNFLIPPED,
    OPERATIONS,
    AugmentedPairs,
    names_sides,
    random_operations,
)
from biomedgpt_jax.data.biomedgpt_tokens import train_biomedgpt_tokens
from biomedgpt_jax.data.encoded_pairs import EncodedPairs, encode_split_pairs
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_encoding import TokenLimits
from biomedgpt_jax.data.pair_tasks import PairRules
from biomedgpt_jax.data.source import PreparedSplit, Sample, Turn


@pytest.fixture
def rgb() -> np.ndarray:
    """A photo-like gradient, darker on the left."""
    grid = np.linspace(30, 200, 90)[None, :, None] * np.linspace(0.5, 1, 60)[:, None, None]
    grid[::7, ::7] += 40  # something to sharpen
    return np.repeat(grid, 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_views_follow_their_generator(name: str, rgb: np.ndarray) -> None:
    views = [AUGMENTATIONS[name](rgb, 32, np.random.default_rng(seed)) for seed in (0, 0, *range(1, 12))]
    assert all(view.shape == (32, 32, 3) and view.dtype == np.uint8 for view in views)
    assert np.array_equal(views[0], views[1])
    assert len({view.tobytes() for view in views}) > 9


def test_flips_are_there_only_where_they_are_said(rgb: np.ndarray) -> None:
    def flipped(augmentation, seed: int) -> bool:
        view = augmentation(rgb, 32, np.random.default_rng(seed)).astype(float).mean(axis=(0, 2))
        return view[:16].mean() > view[16:].mean()

    counts = {
        a.name: sum(flipped(a, seed) for seed in range(60)) for a in (CLASSIFIED, CLASSIFIED_UNFLIPPED, CAPTIONED)
    }
    assert counts["classified"] > 15 and counts["classified-unflipped"] <= 6 and counts["captioned"] <= 6
    assert CLASSIFIED.flips and not CLASSIFIED_UNFLIPPED.flips and not CAPTIONED.flips


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operations(name: str, rgb: np.ndarray) -> None:
    image = Image.fromarray(rgb)
    weak, strong = (np.asarray(OPERATIONS[name](image, s, 1.0)).astype(int) for s in (0.1, 0.9))
    other = np.asarray(OPERATIONS[name](image, 0.9, -1.0)).astype(int)
    assert strong.shape == rgb.shape
    moving = name.startswith(("shear", "translate", "rotate"))
    assert (np.abs(strong - other).max() > 0) == moving
    assert (np.abs(weak - strong).max() > 0) == (moving or name in ("brightness", "sharpness"))
    assert np.array_equal(strong, rgb) == (name == "identity")
    again = [np.asarray(random_operations(image, 2, 7.0, np.random.default_rng(3))) for _ in range(2)]
    assert np.array_equal(again[0], again[1])


@pytest.mark.parametrize(
    ("name", "seen"),
    [("translate_x", (40, 40)), ("translate_y", (50, 30)), ("shear_x", (38, 40)), ("shear_y", (50, 25))],
)
def test_strength_of_what_moves(name: str, seen: tuple[int, int]) -> None:
    """A tenth of a side, and 0.3 of the way from the edge."""
    image = Image.new("RGB", (100, 100))
    image.putpixel((50, 40), (255, 255, 255))
    moved = np.asarray(OPERATIONS[name](image, 1.0, 1.0))[..., 0]
    row, column = np.unravel_index(np.where(moved == 128, 0, moved).argmax(), moved.shape)  # 128 moves in from outside
    assert (column, row) == seen


def test_strength_of_turns_and_of_light() -> None:
    image = Image.new("RGB", (101, 101))
    image.paste((255, 255, 255), (88, 48, 93, 53))  # 40 right of the middle
    turned = np.asarray(OPERATIONS["rotate"](image, 1.0, 1.0))[20:81, :, 0]
    rows, columns = np.nonzero(turned > 200)
    assert np.degrees(np.arctan2(30 - rows.mean(), columns.mean() - 50)) == pytest.approx(30, abs=1)
    grey = Image.new("RGB", (9, 9), (100, 100, 100))
    assert [np.asarray(OPERATIONS["brightness"](grey, s, 1.0))[4, 4, 0] for s in (0.0, 0.5, 1.0)] == [10, 100, 190]


def test_what_a_caption_is_seen_with() -> None:
    """Two operations of magnitude 7, and the middle at 1 to 480 / 256 times its size."""
    grey = np.full((64, 64, 3), 100, np.uint8)
    lights = {int(CAPTIONED(grey, 16, np.random.default_rng(seed))[8, 8, 0]) for seed in range(200)}
    # Brighter by 1.36 not at all, once and twice; 0 where contrast is stretched between it and what moved in.
    assert lights == {100, 136, 184, 0}
    place = np.arange(256, dtype=np.uint8)
    ramp = np.stack([*np.meshgrid(place, place), np.full((256, 256), 128, np.uint8)], axis=-1)
    spans = []
    for seed in range(300):
        view = CAPTIONED(ramp, 32, np.random.default_rng(seed)).astype(float)
        straight = max(view[..., 0].std(axis=0).max(), view[..., 1].std(axis=1).max(), view[..., 2].std()) < 2
        if straight and np.abs(view[15:17, 15:17].mean((0, 1)) - 128).max() < 3:
            spans.append(view[16, -1, 0] - view[16, 0, 0])
    assert 125 < min(spans) < 160 and max(spans) > 225


def test_what_a_class_is_seen_with() -> None:
    """A quarter of the views have noise in 2 to 33% of them; the least are of 8% of the picture."""
    grey = np.full((64, 64, 3), 100, np.uint8)
    views = [CLASSIFIED(grey, 32, np.random.default_rng(seed)) for seed in range(300)]
    noisy = [view for view in views if len(np.unique(view)) > 40]
    assert 55 < len(noisy) < 95
    place = np.arange(256, dtype=np.uint8)
    ramp = np.stack([*np.meshgrid(place, place), np.full((256, 256), 128, np.uint8)], axis=-1)
    areas = []
    for seed in range(300):
        view = CLASSIFIED(ramp, 32, np.random.default_rng(seed)).astype(int)
        areas.append(np.ptp(view[..., 0]) * np.ptp(view[..., 1]) / 255**2)
    assert sum(area < 0.15 for area in areas) > 3 and min(areas) > 0.05


@pytest.mark.parametrize(
    ("question", "answer", "meta", "sided"),
    [
        ("Is the LEFT lung clear?", "yes", {}, True),
        ("Where?", "in the RUL", {}, True),
        ("Where?", "rt kidney", {}, True),
        ("Which?", "liver", {"choices": ["liver", "right kidney"]}, True),
        ("Which?", "kidney_left", {}, True),
        ("Which?", "mass", {"boxes": [[1, 2, 3, 4, "mass of the left lung"]]}, True),
        ("哪个肺有病变？", "左肺", {}, True),
        ("Which organ is bright?", "cleft palate, copyright", {"organ": "chest", "image_name": "left_3.png"}, False),
    ],
)
def test_texts_that_name_sides(question: str, answer: str, meta: dict, sided: bool) -> None:
    assert names_sides(Sample("s", (0,), (Turn(question, answer),), meta)) == sided


def test_flips_are_refused_for_such_data(make_split: Callable[..., PreparedSplit], tmp_path: Path) -> None:
    tokens = train_biomedgpt_tokens(["is it large? left right yes"] * 3, tmp_path / "tokens", 280, 16, 10)

    def pairs(answer: str, name: str) -> EncodedPairs:
        split = make_split([([9], [("is it large?", "yes")]), ([8], [("where?", answer)])], name=name)
        return encode_split_pairs(split, PairRules(), tokens, TokenLimits(40, 40), tmp_path / "cache")

    with pytest.raises(
        DataError, match=r"1 of 2 samples name sides .* for example sides-1 \(raw row 1\); a left-right flip"
    ):
        AugmentedPairs(pairs("on the right", "sides"), CLASSIFIED, 16)
    AugmentedPairs(pairs("on the right", "sides"), CLASSIFIED_UNFLIPPED, 16)
    augmented = AugmentedPairs(pairs("below", "plain"), CLASSIFIED, 16)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    views = []
    for seed in (0, 0, 1):
        view = augmented.pair(1, np.random.default_rng(seed)).view
        assert view is not None
        views.append(view(pixels))
    assert np.array_equal(views[0], views[1]) and not np.array_equal(views[0], views[2])
    assert views[0].shape == (16, 16, 3) and augmented.key != augmented.pairs.key
