"""MedMNIST's npz files, whole and damaged."""

import io

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.sets import medmnist
from biomedgpt_jax.data.source import PreparedSplit
from tests.data.server import Files, serve
from tests.data.sets.raw import prepare


def arrays(shape, labels=(0, 1, 1)):
    rng = np.random.default_rng(0)
    made = {}
    for split in ("train", "val", "test"):
        made[f"{split}_images"] = rng.integers(0, 255, (len(labels), *shape), np.uint8)
        made[f"{split}_labels"] = np.array(labels, np.uint8)[:, None]
    return made


def test_grey_pictures_of_28_pixels(tmp_path):
    made = arrays((28, 28), labels=(0, 1, 7))
    np.savez_compressed(tmp_path / "breastmnist.npz", **made)
    found = prepare("breastmnist", tmp_path, tmp_path / "out")
    assert {split: len(samples) for split, samples in found.splits.items()} == dict.fromkeys(
        ("train", "validation", "test"), 2
    )
    second = found.by_id["breastmnist-validation-2"]
    assert second.turns[0].answer == "normal, benign"
    assert second.turns[0].question == "Which finding does the image show? Choose one: malignant; normal, benign."
    assert second.meta["choices"] == ["malignant", "normal, benign"]
    assert (second.meta["task"], second.meta["label"]) == ("classification", 1)
    stored = PreparedSplit(tmp_path / "out", "validation").image(second.images[0])
    assert (np.asarray(Image.open(io.BytesIO(stored))) == made["val_images"][1]).all()
    assert found.skipped == ["label 7: expected one of 0 to 1"] * 3


def test_coloured_pictures_of_224_pixels(tmp_path):
    made = arrays((224, 224, 3))
    np.savez_compressed(tmp_path / "pathmnist_224.npz", **made)
    rows = list(DATASETS["pathmnist_224"].read(tmp_path).splits["train"].rows())
    assert [row.turns[0][1] for row in rows] == ["adipose", "background", "background"]
    assert (np.asarray(Image.open(io.BytesIO(rows[2].images[0].read()))) == made["train_images"][2]).all()


def test_findings_of_a_chest_are_answered_together(tmp_path):
    made = arrays((64, 64), labels=(0, 1, 2, 3))
    for split in ("train", "val", "test"):
        made[f"{split}_labels"] = np.zeros((4, 14), np.uint8)
        made[f"{split}_labels"][1, 13] = 1
        made[f"{split}_labels"][2, [0, 2]] = 1
        made[f"{split}_labels"][3, 5] = 2
    np.savez_compressed(tmp_path / "chestmnist_64.npz", **made)
    found = prepare("chestmnist_64", tmp_path, tmp_path / "out")
    assert [s.turns[0].answer for s in found.splits["train"]] == ["no finding", "hernia", "atelectasis, effusion"]
    third = found.by_id["chestmnist-validation-3"]
    assert third.turns[0].question.endswith("Name all of: " + "; ".join(third.meta["classes"]) + "; or no finding.")
    assert (third.meta["task"], third.meta["answer_type"]) == ("findings", "open")
    assert third.meta["labels"] == [1, 0, 1] + [0] * 11
    assert found.skipped == ["labels [0, 2]: expected 0 and 1 alone"] * 3


def test_labels_of_one_class_in_the_file_of_many_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "chestmnist.npz", **arrays((28, 28)))
    with pytest.raises(DataError, match="not the npz file of chestmnist"):
        list(DATASETS["chestmnist"].read(tmp_path).splits["train"].rows())


def test_every_set_has_its_classes_and_a_file_of_each_size():
    assert len(medmnist.SETS) == 12
    for each in medmnist.SETS:
        assert len(set(each.classes)) == len(each.classes) > 1
        assert all(len(digest) == 32 for digest in each.md5)
        assert all(f"{each.name}_{pixels}" in DATASETS for pixels in (64, 128, 224))
    assert len({digest for each in medmnist.SETS for digest in each.md5}) == 48
    assert DATASETS["organcmnist"].published == {"train": 12975, "validation": 2392, "test": 8216}
    assert len(medmnist.SETS[0].classes) == 9


@pytest.mark.parametrize("damage", ["cut", "kind", "no labels", "counts"])
def test_other_files_are_refused(tmp_path, damage):
    made = arrays((28, 28))
    if damage == "kind":
        made["train_images"] = made["train_images"].astype(np.float32)
    if damage == "counts":
        made["train_labels"] = made["train_labels"][:2]
    if damage == "no labels":
        del made["train_labels"]
    path = tmp_path / "octmnist.npz"
    np.savez(path, **made)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not the npz file of octmnist"):
        list(DATASETS["octmnist"].read(tmp_path).splits["train"].rows())


def test_the_file_is_fetched_and_its_checksum_must_agree(tmp_path, monkeypatch):
    out = io.BytesIO()
    np.savez_compressed(out, **arrays((28, 28)))
    files = Files({"/octmnist.npz": out.getvalue()})
    with serve(files) as address:
        monkeypatch.setattr(medmnist, "BASE", address)
        with pytest.raises(DataError, match=r"md5 .*, expected c68d92d5b585d8d81f7112f81e2d0842; the damaged file"):
            prepare_dataset(DATASETS["octmnist"], tmp_path / "out")
    assert not list((tmp_path / "out.raw").iterdir())
