"""The examples of each kind of row, wrong ones, and batches that mix both halves of a step."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.augment import CAPTIONED, CLASSIFIED
from biomedgpt_jax.data.batch_iterator import Reading
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens, train_biomedgpt_tokens
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.layouts import own_dataset
from biomedgpt_jax.data.mixture import Part
from biomedgpt_jax.data.pair_batches import ALL_PATCHES, PairShape
from biomedgpt_jax.data.pair_pipeline import PairSettings, build_pair_data
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.pretraining_pairs import PretrainingPairs, pretraining_pairs
from biomedgpt_jax.data.pretraining_tasks import PretrainingSettings
from biomedgpt_jax.data.rows import ImageBytes, make_row
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.spec import Raw, RawSplit
from biomedgpt_jax.data.tasks import Overflow

SIZE = 32
SETTINGS = PretrainingSettings(SIZE)
TEXT = " ".join(f"word{n % 30}" for n in range(200))
# (task, question, answer, meta)
CAPTIONS = [("caption", "q", f"The Lung-{n} is/was large.", {"objects": ["lung", f"part{n}"]}) for n in range(6)]
QUESTIONS = [("vqa", f"What is {n}?", ("yes", "no", "7", "12", "liver", "spleen")[n], {}) for n in range(6)]
REGIONS = [("grounding", "q", "the heart", {"box": [10, 10, 20, 20]})]
TEXTS = [("text", "q", TEXT, {}), ("text", "q", "A short TEXT here.", {})]
CODES = [("image_codes", "q", "0 5 15 3", {})]
BOXES = [("detection", "q", "lesion", {"boxes": [[2, 4, 10, 12, "Lesion"], [15, 20, 39, 38, "lymph node"]]})]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> BiomedGptTokens:
    texts = [TEXT, "what does the image describe? the lung is large yes no", " yes no"] * 4
    return train_biomedgpt_tokens(texts, tmp_path_factory.mktemp("tokens"), 330, 16, 100)


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., PreparedSplit]:
    def png(level: int, task: str) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (40, 20 if task == "grounding" else 40), (level, 9, 9)).save(out, "PNG")
        return out.getvalue()

    def make(name: str, entries: list) -> PreparedSplit:
        rows = [
            make_row(
                "raw",
                n,
                id=f"{name}-{n}",
                images=[] if task == "text" else [ImageBytes(png(n, task), f"{n}.png")],
                turns=[(question, answer)],
                meta={"task": task, **meta},
            )
            for n, (task, question, answer, meta) in enumerate(entries)
        ]
        raw = Raw({"train": RawSplit(lambda: iter(rows), len(rows))}, (), identity=name)
        prepare_dataset(own_dataset(name, lambda _: raw), tmp_path / name, source_dir=tmp_path)
        return PreparedSplit(tmp_path / name, "train")

    return make


@pytest.fixture
def listed(prepare: Callable, tokens: BiomedGptTokens, tmp_path: Path) -> Callable[..., PretrainingPairs]:
    def make(name: str, entries: list, settings: PretrainingSettings = SETTINGS, **options) -> PretrainingPairs:
        augmentation = options.pop("augmentation", None)
        return pretraining_pairs(prepare(name, entries), tokens, settings, augmentation, tmp_path / "cache", **options)

    return make


def read(pairs: PretrainingPairs, index: int, tokens: BiomedGptTokens, seed: int = 0) -> tuple[str, str]:
    pair = pairs.pair(index, np.random.default_rng(seed))
    assert len(pair.source) <= pairs.lengths()[index, 0] and len(pair.target) <= pairs.lengths()[index, 1]
    return tokens.decode(pair.source[1:-1], False), tokens.decode(pair.target[:-1], False)


def test_captions_and_their_matches(listed: Callable, tokens: BiomedGptTokens) -> None:
    pairs = listed("captions", CAPTIONS)
    assert (
        len(pairs) == 12
        and pairs.examples_per_row == 2
        and pairs.sample_id(3) == "captions-1 (raw row 1), turn 1, matching"
    )
    assert read(pairs, 2, tokens) == (" what does the image describe?", " the lung 1 is was large.")
    kinds = {"right": 0, "other caption": 0, "other object": 0}
    for seed in range(400):
        source, target = read(pairs, 3, tokens, seed)
        told = source.removeprefix(' does the image describe " ').removesuffix(' "?')
        if told == "the lung 1 is was large.":
            kinds["right"] += 1
            assert target == " yes"
            continue
        assert target == " no"
        other = told.startswith("the part")
        kinds["other object" if other else "other caption"] += 1
        assert other or told in {f"the lung {n} is was large." for n in (0, 2, 3, 4, 5)}
    # A half is right; of the others 4 of 10 speak of another object.
    assert 170 < kinds["right"] < 230 and 0.3 < kinds["other object"] / (400 - kinds["right"]) < 0.5


def test_answers_and_their_checks(listed: Callable, tokens: BiomedGptTokens) -> None:
    pairs = listed("questions", QUESTIONS)
    assert read(pairs, 8, tokens) == (" what is 4?", " liver")
    wrong = {}
    for index in (1, 5, 9):
        found = {read(pairs, index, tokens, seed) for seed in range(30)}
        wrong[index] = {source.split('is "')[-1] for source, target in found if target == " no"}
        right = {source for source, target in found if target == " yes"}
        assert len(right) == 1
    assert wrong == {1: {' no "?'}, 5: {' 12 "?'}, 9: {' spleen "?'}}
    # There is no other number: any other answer, which may be longer.
    alone = listed("alone", [("vqa", "How many are there?", "7", {}), ("vqa", "What?", "liver and spleen", {})])
    found = {read(alone, 1, tokens, seed) for seed in range(20)}
    assert {source.split('is "')[-1] for source, target in found if target == " no"} == {' liver and spleen "?'}


def test_words_and_confidence(listed: Callable, tokens: BiomedGptTokens) -> None:
    assert PretrainingSettings(256) == PretrainingSettings(256, mask_ratio=0.3, text_read=512, text_kept=256)
    words = [f"w{n}" for n in range(90)]
    long = [
        ("caption", "q", " ".join(words), {}),
        ("vqa", " ".join(words), "W", {"confidence": 0.7}),
    ]
    pairs = listed("long", long)
    assert read(pairs, 0, tokens)[1] == " " + " ".join(words[:30])
    asked = " ".join(words[:80])
    assert read(pairs, 2, tokens) == (f" {asked}", " w")
    assert read(pairs, 3, tokens)[0] == f' what is the answer to question " {asked} ". is " w "?'
    assert [pairs.pair(n, np.random.default_rng(0)).weight for n in range(4)] == [1, 1, 0.7, 0.7]


def test_regions(listed: Callable, tokens: BiomedGptTokens) -> None:
    pairs = listed("regions", REGIONS)
    # In a picture of 40 x 20 pixels seen with 32 x 32, on a scale of 64: 8/64, 16/64, 16/64, 32/64 of 99.
    bins = "<bin_12><bin_25><bin_25><bin_50>"
    assert read(pairs, 0, tokens) == (' which region does the text " the heart " describe?', bins)
    assert read(pairs, 1, tokens) == (f"  what does the region describe? region:{bins}", " the heart")


def test_texts(listed: Callable, tokens: BiomedGptTokens) -> None:
    pairs = listed("texts", TEXTS, PretrainingSettings(SIZE, text_read=90, text_kept=60))
    pair = pairs.pair(0, np.random.default_rng(1))
    whole = tokens.encode(" " + TEXT)
    assert pair.target.tolist() == [*whole[30:90], tokens.eos_id]
    source, _ = read(pairs, 0, tokens, 1)
    assert source.startswith(' what is the complete text of "') and source.endswith(' "?') and "<mask>" in source
    assert (pair.weight, pair.extra, pair.image) == (2.0, True, -1)
    assert read(pairs, 1, tokens)[1] == " a short text here."
    words = {f"zq{n}x" for n in range(30)}  # each of several tokens
    source, _ = read(listed("words", [("text", "q", " ".join(words), {})]), 0, tokens)
    kept = source.removeprefix(' what is the complete text of "').removesuffix(' "?').replace("<mask>", " ").split()
    assert len(kept) == 21 and set(kept) < words
    short = listed("word", [("text", "q", "lung", {})])  # more masks than words
    assert max(read(short, 0, tokens, seed)[0].count("<mask>") for seed in range(60)) > 1


def test_codes_and_detection(listed: Callable, tokens: BiomedGptTokens) -> None:
    codes = listed("codes", CODES)
    assert codes.examples_per_row == 1
    pair = codes.pair(0, np.random.default_rng(0))
    assert pair.target.tolist() == [*(tokens.code_id(n) for n in (0, 5, 15, 3)), 2] and pair.hole and pair.codes
    # Varied are the pictures of captions and questions alone.
    views = [listed(f"{entries[0][0]}-seen", entries, augmentation=CAPTIONED).pair(0, np.random.default_rng(0)).view
             for entries in (CODES, REGIONS, CAPTIONS, QUESTIONS)]  # fmt: skip
    assert [view is None for view in views] == [True, True, False, False]
    pairs = listed("boxes", BOXES)
    seen = {read(pairs, 0, tokens, seed)[1] for seed in range(8)}
    assert len(seen) == 8 and all(text.endswith(" lymph node") and " lesion<bin" in text for text in seen)
    pair = pairs.pair(0, np.random.default_rng(0))
    assert pair.view is not None and pair.view(np.zeros((40, 40, 3), np.uint8)).shape == (SIZE, SIZE, 3)
    assert len(pair.target) == pairs.lengths()[0, 2]


def test_broken_rows(listed: Callable) -> None:
    broken = [
        *BOXES,
        ("detection", "q", "x", {"boxes": [[5, 5, 2, 9, "a"]]}),
        ("image_codes", "q", "1 2 3", {}),
        ("image_codes", "q", "1 2 3 99", {}),
        ("grounding", "q", "x", {}),
        ("caption", "q", "?!", {}),
        ("riddle", "q", "x", {}),
        ("detection", "q", "x", {"boxes": [[2, 2, 9, 9, "a"], [3, 50, 9, 60, "b"]]}),
        ("grounding", "q", "x", {"box": [41, 2, 50, 9]}),
        ("image_codes", "q", "1 2 3 \u00b2", {}),
    ]
    with pytest.raises(DataError, match=r"9 of 10 samples can't be used: sample broken-1 .*corners 5, 5, 2, 9"):
        listed("broken", broken)
    left = listed("broken", broken, overflow=Overflow.SKIP)
    assert len(left) == 1 and [each.number for each in left.rejected] == list(range(1, 10))
    reasons = " | ".join(each.reason for each in left.rejected)
    for word in (
        "are not in order",
        "codes of a square",
        "sample broken-3 (raw row 3): image code 99",
        "four numbers",
        "caption is empty",
        "riddle",
        "begins at 3, 50 lies outside of its picture of 40 x 40 pixels",
        "begins at 41, 2 lies outside of its picture of 40 x 20 pixels",
    ):
        assert word in reasons


def test_flips_and_sides(listed: Callable) -> None:
    sided = [("caption", "q", "mass in the left lung", {})]
    with pytest.raises(DataError, match=r"sided:train: 1 of 1 samples name sides"):
        listed("sided", sided, augmentation=CLASSIFIED)
    with pytest.raises(DataError, match="1 of 1 samples name sides"):
        listed("sided", sided, PretrainingSettings(SIZE, flips=True))
    assert len(listed("sided", sided, augmentation=CAPTIONED)) == 2


def test_a_step_of_one_half_sees_all_patches(listed: Callable, tokens: BiomedGptTokens) -> None:
    settings = PairSettings((PairShape(320, 260),), (SIZE, SIZE), even=True, patches_kept=3)
    parts = [Part(listed("captions", CAPTIONS)), Part(listed("text", TEXTS[1:]))]
    data = build_pair_data(parts, tokens, settings, 4, 1, seed=0)

    def pixels(image: bytes) -> np.ndarray:
        return np.zeros((SIZE, SIZE, 3), np.uint8)

    steps = []
    for batch in data.batches(pixels, Reading(0, 1, 1, 0)):
        both, kept = 12 in batch["samples"], batch["patches_kept"][(batch["samples"] >= 0)[:, 0]]
        steps.append(both)
        assert set(kept) == ({3, ALL_PATCHES} if both else {ALL_PATCHES})
        assert both or set(batch["loss_weights"].ravel().tolist()) == {0, 1}
    assert sorted(steps) == [False, False, False, True]


def test_batches_of_both_halves(listed: Callable, tokens: BiomedGptTokens) -> None:
    parts = [
        Part(listed("captions", CAPTIONS, augmentation=CAPTIONED), 1.0),
        Part(listed("texts", TEXTS), 2.0),
        Part(listed("codes", CODES), 1.0),
        Part(listed("boxes", BOXES), 1.0),
    ]
    settings = PairSettings((PairShape(320, 260),), (SIZE, SIZE), even=True, patches_kept=3)
    data = build_pair_data(parts, tokens, settings, 18, 2, seed=0)

    def pixels(image: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(image)).resize((SIZE, SIZE)))

    def batches(rows: range | None = None) -> list:
        iterator = pickle.loads(pickle.dumps(data)).batches(pixels, Reading(0, 1, 1, 0), rows)
        return list(iterator)

    whole = batches()
    assert len(whole) == 2
    for batch in whole:
        counts = [((batch["samples"] >= low) & (batch["samples"] < high)).sum() for low, high in ((0, 12), (12, 16))]
        assert counts == [12, 6]
        weights, second = batch["loss_weights"], (batch["samples"] >= 12)[:, 0]
        total = (weights > 0).sum()
        # Divided by the number of tokens, the sum of a mean of weight 1 and one of weight 2.
        assert weights[~second].sum() / total == pytest.approx(1, rel=0.05)
        assert weights[second].sum() / total == pytest.approx(2, rel=0.05)
        assert set(batch["patches_kept"][~second]) == {3} and set(batch["patches_kept"][second]) == {ALL_PATCHES}
        texts = np.isin(batch["samples"][:, 0], (12, 13))
        assert (batch["image_mask"] == ~texts).all() and batch["image_hole"].sum() == 1
        assert (batch["code_targets"] == batch["image_hole"]).all()
    halves = [batches(rows) for rows in (range(7), range(7, 18))]
    for batch, left, right in zip(whole, *halves, strict=True):
        assert all(np.array_equal(batch[key], np.concatenate([left[key], right[key]])) for key in batch)
    assert not np.array_equal(np.sort(whole[0]["tokens"], 0), np.sort(whole[1]["tokens"], 0))
