"""The rows as TFDS builders: registered, prepared and read without TensorFlow."""

import json
import sys
import warnings

import pytest
import tensorflow_datasets as tfds

import biomedgpt_jax.data.tfds  # noqa: F401 (registers the builders)
from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.errors import DataError
from tests.data.sets.raw import write

PAIR = "What  helps?\tWhat are the treatments?\n"


@pytest.fixture(autouse=True)
def quiet():
    """TFDS warns of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_every_row_is_a_builder():
    assert set(DATASETS) <= set(tfds.list_builders(with_community_datasets=False))
    assert "tensorflow" not in sys.modules


def test_pictures_and_questions_of_vqa_rad(tmp_path, shared_data):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "vqa_rad_body_parts").symlink_to(shared_data / "vqa_rad")
    source = tfds.data_source("vqa_rad_body_parts", split="test", data_dir=tmp_path)
    assert len(source) == 67
    example = source[0]
    assert example["images"][0].shape[2] == 3
    assert example["turns"]["question"] == [b"Which part of the body is shown?"]
    assert example["turns"]["answer"][0].decode() in json.loads(example["meta"])["choices"]
    assert len(tfds.data_source("vqa_rad_body_parts", split="train[:10%]", data_dir=tmp_path)) == 21


def test_bad_rows_and_other_sizes_end_it(tmp_path):
    manual = tmp_path / "downloads" / "manual" / "meqsum"
    write(manual, {"train.tsv": PAIR, "val.tsv": PAIR, "test.tsv": PAIR})
    with pytest.raises(DataError, match="meqsum: split 'train': 1 rows found, 800 published"):
        tfds.data_source("meqsum", split="train", data_dir=tmp_path)
    (manual / "train.tsv").write_text("no tab\n")
    with pytest.raises(DataError, match=r"meqsum: train\.tsv row 1: expected 2 tab-separated columns, found 1"):
        tfds.data_source("meqsum", split="train", data_dir=tmp_path)


def test_credentialed_sets_need_a_folder_of_their_own(tmp_path):
    with pytest.raises(DataError, match="mednli is credentialed: give data_dir"):
        tfds.builder("mednli")
    with pytest.raises(DataError, match=r"(?s)manual/mednli: no such folder\..*8\. Put the files into"):
        tfds.data_source("mednli", split="train", data_dir=tmp_path)
