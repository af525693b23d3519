"""Lint on SLAKE's layout, with the overlaps that its splits by folder of an image do not exclude."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.lint import leaks, texts
from biomedgpt_jax.data.lint.images import look
from biomedgpt_jax.data.lint.material import Material, Part
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.source import PreparedSplit


def scan(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8), np.uint8)
    return Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).convert("RGB")


def encoded(image: Image.Image, quality: int = 95) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


# Folder of an image -> its bytes. 1 is trained on; 2 is the same file, 3 it in another quality, 4 mirrored.
FOLDERS = {
    1: encoded(scan(0)),
    2: encoded(scan(0)),
    3: encoded(scan(0), quality=50),
    4: encoded(scan(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    5: encoded(scan(1)),
}


def entry(number: int, folder: int, question: str, answer: str, language: str = "en") -> dict:
    return {
        "img_id": folder, "img_name": f"xmlab{folder}/source.jpg", "question": question, "answer": answer,
        "q_lang": language, "location": "Lung", "modality": "CT", "answer_type": "OPEN", "base_type": "vqa",
        "content_type": "Organ", "triple": ["vhead", "_", "_"], "qid": number,
    }  # fmt: skip


ROWS = {
    "train": [
        entry(1, 1, "Which organ is shown?", "Lung"),
        entry(2, 1, "Which organ is shown?", "Liver"),
        entry(7, 2, "图中是什么器官？", "肺", "zh"),
    ],
    "validation": [entry(3, 5, "Which organ is shown?", "Heart")],
    "test": [
        entry(4, 2, "Which organ is shown?", "Lung"),
        entry(5, 3, "Which organ is shown?", "Lung"),
        entry(6, 4, "Which organ is shown?", "Lung"),
        entry(8, 5, "Which organ is shown?", "Heart"),
    ],
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slake")
    for name, rows in ROWS.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    for number, data in FOLDERS.items():
        (folder / "imgs" / f"xmlab{number}").mkdir(parents=True)
        (folder / "imgs" / f"xmlab{number}" / "source.jpg").write_bytes(data)
    return folder


def parts(raw, out, name: str, **roles: bool) -> list[Part]:
    prepare_dataset(DATASETS[name], out, source_dir=raw, allow_other_sizes=True, max_bad_share=0.9)
    found = []
    for split, learned in roles.items():
        prepared = PreparedSplit(out, split)
        part = Part(prepared, learned, prepared.samples(range(len(prepared))))
        part.pictures = look(prepared, 1, lambda done, total: None)
        found.append(part)
    return found


def test_overlaps_of_its_splits_are_found(raw, tmp_path):
    material = Material(tuple(parts(raw, tmp_path / "slake", "slake", train=True, test=False)))
    checks = (leaks.same_samples, leaks.near_images, texts.repeated_samples)
    found = {f.code: (f.where, f.count, f.total, f.ids) for check in checks for f in check(material)}
    assert found == {
        "test-sample-in-train": ("slake:test", 1, 4, ("slake-test-4",)),
        "test-image-in-train": ("slake:test", 1, 4, ("slake-test-4",)),
        "test-image-near-train": ("slake:test", 2, 4, ("slake-test-5", "slake-test-6")),
        "two-answers": ("slake:train", 1, 2, ("slake-train-2",)),
    }


def test_the_other_language_shows_the_same_images(raw, tmp_path):
    """Training on the Chinese questions, scored on the English ones."""
    for split in ("validation", "test"):
        rows = [*ROWS[split], entry(9, 5, "这是什么？", "心", "zh")]
        (raw / f"{split}.json").write_text(json.dumps(rows))
    material = Material(
        (
            *parts(raw, tmp_path / "slake_zh", "slake_zh", train=True),
            *parts(raw, tmp_path / "slake", "slake", test=False),
        )
    )
    found = {f.code: f.ids for f in leaks.same_samples(material)}
    assert found == {"test-image-in-train": ("slake-test-4",)}
