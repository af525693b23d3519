"""Checks of lint by hand-made samples: what each finds, and what it must leave alone."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.lint import overlap, privacy, texts
from biomedgpt_jax.data.lint.findings import RULES, Severity, found, refused
from biomedgpt_jax.data.lint.likeness import SIDE, in_small, near
from biomedgpt_jax.data.lint.material import Material, Part, Pictures, plain
from biomedgpt_jax.data.source import PreparedSplit, Sample, Turn


@pytest.mark.parametrize(
    "code, text",
    [
        ("phi-name", "seen by Dr. Miller"),
        ("phi-name", "Patient name: someone"),
        ("phi-date", "on 03/05/2011 again"),
        ("phi-date", "2011-05-03"),
        ("phi-date", "May 3rd, 2011"),
        ("phi-record-number", "MRN: 0012345"),
        ("phi-record-number", "123-45-6789"),
        ("phi-phone", "call (617) 555-0142"),
        ("phi-phone", "+44 20 7946 0958"),
        ("phi-address", "write to a.b@clinic.org"),
    ],
)
def test_patterns_of_protected_information(code, text):
    assert [name for name, pattern in privacy.PATTERNS.items() if pattern.search(text)] == [code]


@pytest.mark.parametrize(
    "text",
    ["Dr said so", "a 3.5/4 score", "T1-T12 on 1.5 T", "a ratio of 120/80", "in 2011", "may 3 lesions", "L4/5/6",
     "12 345 678", "doi 10.1000/182-555", "the drug 123-45", "grade 2-3-4 of 10"],
)  # fmt: skip
def test_ordinary_text_matches_no_pattern(text):
    assert [name for name, pattern in privacy.PATTERNS.items() if pattern.search(text)] == []


def pictures(*images: bytes) -> Pictures:
    rgb = np.stack([load_square(image, SIDE, Geometry.RESIZE_FAST, (0, 0, 0)) for image in images])
    never = np.zeros(len(images), bool)
    return Pictures(*in_small(rgb.astype(np.float32).mean(axis=3)), never, never, never)


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize((300, 240), 3) for _ in range(12)]


@pytest.fixture(scope="module")
def originals(scenes) -> Pictures:
    return pictures(*(encoded(scene, "PNG") for scene in scenes))


COPIES = {
    "smaller": lambda scene: scene.resize((211, 170), 1),
    **{turn.name: lambda scene, turn=turn: scene.transpose(turn) for turn in Image.Transpose},
    "cut": lambda scene: scene.crop((19, 15, 281, 225)),  # 56/64 of each side are left
    "framed": lambda scene: ImageOps.expand(scene, (50, 40)),  # it is 48/64 of each side
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near_and_others_are_not(name, scenes, originals):
    copies = pictures(*(encoded(COPIES[name](scene), "JPEG", quality=60) for scene in scenes))
    assert near(copies, originals).tolist() == list(range(12))


def test_of_equal_pictures_the_first_is_named(scenes, originals):
    twice = pictures(*(encoded(scenes[number], "PNG") for number in (3, 4, 3, 3, 4)))
    assert near(twice, twice, earlier=True).tolist() == [-1, -1, 0, 0, 1]
    assert (near(originals, originals, earlier=True) == -1).all()
    unreadable = replace(twice, unreadable=np.array([True, False, False, False, False]))
    assert near(unreadable, unreadable, earlier=True).tolist() == [-1, -1, -1, 2, 1]


def test_no_picture_at_all():
    empty = Pictures(*in_small(np.zeros((0, SIDE, SIDE), np.float32)), *[np.zeros(0, bool)] * 3)
    assert near(empty, empty).shape == (0,)


def test_a_text_is_known_by_its_runs_of_words():
    told = "one two three four five six seven eight nine ten eleven twelve"
    other = " ".join(reversed(told.split()))
    hashes, starts = overlap.runs([told, "Two three, four five six seven eight nine ten!", "one two three", other])
    again = overlap.covered(overlap.seen_earlier(hashes, starts), starts)
    assert again.tolist() == [False, True, False, False]
    assert np.diff(starts).tolist() == [5, 2, 0, 5]


def test_words_of_chinese_are_letters():
    assert plain("Is it red? 是红色吗") == "is it red 是 红 色 吗"


@pytest.fixture
def part(prepared_data):
    """Makes a part of samples of our own; checks of texts do not read its split."""
    return lambda samples: Part(PreparedSplit(prepared_data, "train"), True, samples)


def sample(number: int, answer: str, choices: list[str]) -> Sample:
    return Sample(f"s{number}", (), (Turn(f"Question {number}?", answer),), {"choices": choices, "task": "exam"})


def test_the_right_option_may_not_keep_one_place(part):
    rng = np.random.default_rng(0)
    fair = [sample(n, f"r{n}", [f"w{n}", f"x{n}"]) for n in range(60)]
    for each, place in zip(fair, rng.integers(0, 3, 60).tolist(), strict=True):
        each.meta["choices"].insert(place, each.turns[0].answer)
    first = [sample(n, f"r{n}", [f"r{n}", f"w{n}", f"x{n}"]) for n in range(60)]
    codes = [[f.code for f in texts.options(Material((part(each),)))] for each in (fair, first)]
    assert codes == [[], ["unbalanced-options"]]


def test_classes_in_a_fixed_order_may_be_frequent_but_not_alone(part):
    seldom = [sample(n, "yes" if n % 3 else "no", ["yes", "no"]) for n in range(60)]
    always = [sample(n, "yes" if n else "no", ["yes", "no"]) for n in range(60)]
    codes = [[f.code for f in texts.options(Material((part(each),)))] for each in (seldom, always)]
    assert codes == [[], ["unbalanced-answers"]]


def test_what_is_left_out_of_training_is_a_warning():
    (kept,), (left,) = (found("too-long", "a:train", ["s1"], 3, skips=skips) for skips in (False, True))
    assert (kept.severity, left.severity) == (Severity.ERROR, Severity.WARNING)
    assert refused([kept, left], []) == [kept] and refused([kept], ["too-long"]) == []
    assert all(rule.what and rule.do for rule in RULES.values())
