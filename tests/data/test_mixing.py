"""Mixtures of hand-made sets: what is dropped and why, shares and caps, and what may not be asked for."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.instructions.form import form_of, obeys
from biomedgpt_jax.data.instructions.reword import ALL
from biomedgpt_jax.data.layouts import own_dataset
from biomedgpt_jax.data.mixing.balance import balance
from biomedgpt_jax.data.mixing.plan import plan_mixture
from biomedgpt_jax.data.mixing.settings import MixSettings
from biomedgpt_jax.data.mixing.written import mixture_spec
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.rows import ImagePixels, make_row
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.spec import Access, Raw, RawSplit

NOTE = "An old man with a long history of smoking came in with a cough that had lasted for three weeks"
OTHER = "A young woman without any illness before was brought in after she fell from her horse on a gravel road"
CLASSES = ["red", "blue"]


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((96, 112), Image.Resampling.BICUBIC))


def smaller(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((80, 93), Image.Resampling.LANCZOS))


def seen(id: str, pixels: np.ndarray, answer: str = "red", question: str = "Which colour?", **facts) -> tuple:
    meta = {"task": "classification", "answer_type": "closed", "choices": CLASSES, **facts}
    return id, [ImagePixels(pixels, f"{id}.png")], [(question, answer)], meta


def told(id: str, document: str, summary: str, **facts) -> tuple:
    meta = {"task": "summary", "answer_type": "open", "document": document, **facts}
    return id, [], [(f"Summarise this:\n{document}", summary)], meta


def write(folder: Path, **splits: list[tuple]) -> str:
    rows = {
        split: [make_row("f", n, id=i, images=m, turns=t, meta=f) for n, (i, m, t, f) in enumerate(each)]
        for split, each in splits.items()
    }
    raw = Raw({name: RawSplit(lambda r=r: iter(r), len(r)) for name, r in rows.items()}, (), identity=folder.name)
    prepare_dataset(own_dataset(folder.name, lambda _: raw), folder, source_dir=folder.parent)
    return str(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[str, str]:
    """Pictures and texts, each with a test split; the ids of what must be dropped say why."""
    root = tmp_path_factory.mktemp("sets")
    pictures = write(
        root / "pictures",
        train=[
            *(seen(f"p{n}", picture(n), CLASSES[n % 2]) for n in range(12)),
            seen("duplicate", picture(0), "red"),
            seen("near-duplicate", smaller(picture(1)), "blue"),
            seen("two-answers", picture(2), "blue"),
            seen("answer-in-no-form", picture(20), "green"),
            seen("test-image", picture(100)),
            seen("test-image-near", smaller(picture(100))),
            seen("test-patient", picture(21), case="c7"),
            ("talk", [], [("Hello there.", "Hello."), ("And now?", "Goodbye.")], {}),
        ],
        test=[seen("t0", picture(100)), seen("t1", picture(101), case="c7")],
    )
    texts = write(
        root / "texts",
        train=[
            *(told(f"s{n}", f"Visit {n} was about number {n * 7}.", f"Number {n}.") for n in range(6)),
            told("s6", NOTE.replace("cough", "fever"), "Fever."),
            told("near-duplicate", NOTE.replace("cough", "fever") + " ago", "Fever."),
            told("other-answer", NOTE.replace("cough", "fever") + " now", "A smoker."),
            told("test-question", "A short one.", "Short."),
            told("test-text", OTHER + " today", "She fell."),
            told("long", "A word. " * 90, "word " * 90),
        ],
        validation=[told("v0", "A short one.", "Something.")],
        test=[told("t0", OTHER, "A fall.")],
    )
    return pictures, texts


def settings(sets, **changed) -> MixSettings:
    pictures, texts = sets
    scored = ((pictures, "test"), (texts, "validation"), (texts, "test"))
    taken = ((pictures, "train"), (texts, "train"))
    return replace(MixSettings(taken, scored, (), (), samples=0, seed=3, near=True, threads=1), **changed)


def plan(sets, **changed):
    return plan_mixture(settings(sets, **changed), lambda what, done, of: None)


def test_what_is_dropped_is_listed_with_its_reason(sets):
    found = plan(sets)
    reasons = {(each.set, each.id): each.reason for each in found.dropped}
    expected = ["duplicate", "near-duplicate", "answer-in-no-form", "test-image", "test-image-near", "test-patient"]
    assert reasons == {("pictures:train", reason): reason for reason in expected} | {
        ("texts:train", reason): reason for reason in ("near-duplicate", "test-question", "test-text")
    }
    because = {each.id: each.because for each in found.dropped if each.set == "pictures:train"}
    assert because["duplicate"] == "p0" and because["near-duplicate"] == "p1" and because["answer-in-no-form"] == ""
    assert because["test-image-near"] == because["test-patient"] == "pictures:test"
    assert len(found.chosen) == 14 + 9 and len(set(found.chosen)) == 23


def test_pictures_need_not_be_looked_at(sets):
    known = {each.reason for each in plan(sets, near=False).dropped if each.set == "pictures:train"}
    assert known == {"duplicate", "answer-in-no-form", "test-image", "test-patient"}


def made(found, out: Path) -> PreparedSplit:
    prepare_dataset(mixture_spec(found, "mixture"), out)
    return PreparedSplit(out, "train")


def test_what_is_written(sets, tmp_path):
    """Every answer obeys its form, no held-out wording is used, pictures are the ones that were, conversations stay."""
    split = made(plan(sets), tmp_path / "mix")
    samples = split.samples(range(len(split)))
    held_out = {each.name(number) for each in ALL for number in each.held_out}
    used = {sample.meta.get("instruction") for sample in samples}
    assert len(used) > 8 and not used & held_out
    for sample in samples:
        assert sample.meta["task"] == "instruction" and sample.id.startswith(sample.meta["from_set"])
        assert "choices" not in sample.meta
        if "form" in sample.meta:
            assert obeys(form_of(sample.meta["form"], ""), sample.turns[0].answer)
    (talk,) = (sample for sample in samples if sample.id == "pictures:train/talk")
    assert [turn.answer for turn in talk.turns] == ["Hello.", "Goodbye."] and "form" not in talk.meta
    shown = next(sample for sample in samples if sample.id == "pictures:train/p3")
    origin = PreparedSplit(Path(sets[0]), "train")
    assert split.image(shown.images[0]) == origin.image(3)
    assert shown.meta["image_sha256"] == hashlib.sha256(origin.image(3)).hexdigest()
    ids = [sample.id for sample in samples]
    assert ids != sorted(ids) and {source.name for source in split.manifest.sources} == {
        "pictures:train",
        "texts:train",
    }
    # Long answers take no wording that limits them.
    (long,) = (sample for sample in samples if sample.id == "texts:train/long")
    assert "words" not in long.meta["form"]


def test_the_same_seed_gives_the_same_bytes(sets, tmp_path):
    def digests(seed: int, name: str) -> dict[str, str]:
        split = made(plan(sets, seed=seed), tmp_path / name)
        return {file.path: file.sha256 for file in split.manifest.splits["train"].files}

    first, again, other = digests(3, "a"), digests(3, "b"), digests(4, "c")
    assert first == again and first.keys() == other.keys() and first != other
    prepare_dataset(mixture_spec(plan(sets), "mixture"), tmp_path / "a")  # it is there already
    with pytest.raises(DataError, match="made from other data or settings"):
        prepare_dataset(mixture_spec(plan(sets, seed=4), "mixture"), tmp_path / "a")


def counts(found) -> list[int]:
    by_part = Counter(each.part for each in found.chosen)
    return [by_part[0], by_part[1]]


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({}, [14, 9]),
        ({"weights": (1.0, 1.0)}, [9, 9]),
        ({"weights": (3.0, 1.0)}, [14, 4]),  # 14 / 0.75 = 18 in all
        ({"weights": (3.0, 1.0), "samples": 8}, [6, 2]),
        ({"caps": (5, 0)}, [5, 9]),
        ({"caps": (5, 0), "weights": (1.0, 3.0)}, [3, 9]),
        ({"samples": 7}, [4, 3]),
    ],
)
def test_weights_caps_and_size(sets, changed, expected):
    assert counts(plan(sets, near=True, **changed)) == expected


def test_balance_counts_what_was_written(sets, tmp_path):
    split = made(plan(sets), tmp_path / "mix")
    found = balance(split, {"texts:train": "notes"}, lambda text: len(text.split()))
    assert (found.samples, found.images) == (23, 12)
    assert found.sets == {"pictures:train": 14, "texts:train": 9}
    assert found.tasks == {"classification": 13, "summary": 9, "as it stands": 1}
    assert found.modalities == {"not stated": 14, "notes": 9}
    assert found.answers == {"classification": {"blue": 7, "red": 6}}
    assert sum(found.forms.values()) == sum(found.instructions.values()) == 23
    words = sum(len(f"{t.question} {t.answer}".split()) for s in split.samples(range(23)) for t in s.turns)
    assert found.tokens == words and balance(split, {}, None).tokens is None


def test_a_credentialed_set_guards_the_mixture(sets):
    found = plan(sets)
    guarded = replace(found.parts[0].split.manifest, access=Access.CREDENTIALED.value)
    found.parts[0].split.manifest = guarded
    assert mixture_spec(found, "mixture").access is Access.CREDENTIALED
    with pytest.raises(DataError, match="credentialed"):
        prepare_dataset(mixture_spec(found, "mixture"), "gs://bucket/mix")


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"weights": (1.0, 0.0)}, "the weight of texts:train is 0; expected a number above 0. Leave the set out"),
        ({"weights": (1.0,)}, "weights: 1 numbers for 2 data sets"),
        ({"caps": (0, 13)}, "the cap of texts:train is 13, but it has 12 samples"),
        ({"samples": 30}, "30 samples cannot be had: 23 are the most .* left are pictures:train 14, texts:train 9"),
        ({"taken": ()}, "nothing to mix"),
        ({"taken": (("absent", "train"),), "weights": ()}, r"absent holds no manifest.json"),
    ],
)
def test_what_cannot_be_mixed(sets, changed, message):
    with pytest.raises(DataError, match=message):
        plan(sets, **changed)


def test_an_evaluation_set_is_not_mixed(sets):
    _, texts = sets
    with pytest.raises(DataError, match="texts:test is to be mixed and is an evaluation set"):
        plan(sets, taken=((texts, "test"),))
    with pytest.raises(DataError, match="two data sets of the name texts:train"):
        plan(sets, taken=((texts, "train"), (texts, "train")))
    same = ((texts, "validation"),)
    with pytest.raises(DataError, match=r"nothing of texts:validation is left: all of its 1 .*\(test-question 1\)"):
        plan(
            sets,
            taken=same,
            scored=((write(Path(texts).parent / "copy", test=[told("x", "A short one.", "y")]), "test"),),
        )


def test_a_set_without_its_tasks_fields(tmp_path):
    broken = write(tmp_path / "broken", train=[("n1", [], [("Q", "yes")], {"task": "nli", "choices": ["yes", "no"]})])
    found = MixSettings(((broken, "train"),), (), (), (), samples=0, seed=0, near=False, threads=1)
    with pytest.raises(DataError, match=r"broken:train: sample n1: its task 'nli' needs a text in meta\.texts"):
        plan_mixture(found, lambda what, done, of: None)
