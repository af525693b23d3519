"""Parquet, Arrow and TFDS folders."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import files_in
from biomedgpt_jax.data.rows import BadRow, ImageFile
from biomedgpt_jax.data.tables import Columns, read_tables, table_splits
from biomedgpt_jax.data.tfds_source import read_tfds, tfds_splits


def table(make_jpeg, numbers):
    return pa.table(
        {
            "image": [{"bytes": make_jpeg(n), "path": f"im{n}.jpg"} for n in numbers],
            "question": [f"what is {n}?" for n in numbers],
            "answer": [f"answer \t{n}" for n in numbers],
            "area": [n * 10 for n in numbers],
        }
    )


def test_parquet_shards_keep_their_order(tmp_path, make_jpeg):
    (tmp_path / "data").mkdir()
    pq.write_table(table(make_jpeg, range(3)), tmp_path / "data/train-00000-of-00002-ab12.parquet")
    pq.write_table(table(make_jpeg, range(3, 5)), tmp_path / "data/train-00001-of-00002-cd34.parquet")
    pq.write_table(table(make_jpeg, [9]), tmp_path / "data/test.parquet")
    splits = table_splits(tmp_path)
    assert {name: len(files) for name, files in splits.items()} == {"train": 2, "test": 1}
    rows = list(read_tables(splits["train"], Columns(meta=("area",)), files_in(tmp_path)))
    assert [row.turns[0] for row in rows[2:4]] == [("what is 2?", "answer 2"), ("what is 3?", "answer 3")]
    assert rows[4].images[0].read() == make_jpeg(4)
    assert rows[4].images[0].name == "im4.jpg"
    assert rows[4].meta == {"area": 40}
    assert len({row.id for row in rows}) == 5


def test_cells_of_other_kinds(tmp_path, make_jpeg):
    messages = [[{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]] * 4
    cells = [
        [{"bytes": make_jpeg(1), "path": None}, {"bytes": None, "path": "x/y.jpg"}],
        [],
        None,
        [{"bytes": None, "path": "../y.jpg"}],
    ]
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(
        pa.table({"talk": messages, "pictures": pa.array(cells, kind), "key": [1, 2, 3, 4]}),
        tmp_path / "train-00000-of-00001.parquet",
    )
    columns = Columns(conversations="talk", image="pictures", id="key")
    two, none, null, outside = read_tables(table_splits(tmp_path)["train"], columns, files_in(tmp_path))
    assert two.images[0].read() == make_jpeg(1)
    assert two.images[1] == ImageFile(tmp_path / "x/y.jpg", "x/y.jpg", tmp_path)
    assert (none.images, null.images, null.id) == ((), (), "3")
    assert isinstance(outside, BadRow)
    assert outside.row == 4


def test_arrow_as_saved_to_disk(tmp_path, make_jpeg):
    made = table(make_jpeg, range(70))
    (tmp_path / "validation").mkdir()
    file = pa.OSFile(str(tmp_path / "validation/data-00000-of-00001.arrow"), "wb")
    with file, pa.ipc.new_stream(file, made.schema) as writer:
        writer.write_table(made)
    splits = table_splits(tmp_path)
    rows = list(read_tables(splits["validation"], Columns(), files_in(tmp_path)))
    assert len(rows) == 70
    assert rows[69].turns == (("what is 69?", "answer 69"),)


def test_unusable_tables_are_errors(tmp_path, make_jpeg):
    with pytest.raises(DataError, match=r"no \.parquet or \.arrow file"):
        table_splits(tmp_path)
    path = tmp_path / "train.parquet"
    pq.write_table(table(make_jpeg, [1]), path)
    with pytest.raises(DataError, match=r"no column \['reply'\]; found \['answer', 'area', 'image', 'question'\]"):
        list(read_tables([path], Columns(answer="reply"), files_in(tmp_path)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(read_tables([path], Columns(), files_in(tmp_path)))


def test_null_answer_is_a_bad_row(tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"question": ["a?", "b?"], "answer": ["A", None]}), path)
    good, bad = read_tables([path], Columns(image=None), files_in(tmp_path))
    assert good.turns == (("a?", "A"),)
    assert (bad.row, bad.reason) == (2, "answer: expected a string, found NoneType")


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A TFDS data set made by TFDS itself, without TensorFlow."""
    import tensorflow_datasets as tfds

    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3), dtype=np.uint8)
    encoded = []
    for picture in pixels:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "PNG")
        encoded.append(out.getvalue())

    class TinyVqa(tfds.core.GeneratorBasedBuilder):
        """Three questions."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(None, None, 3)),
                "question": tfds.features.Text(),
                "answer": tfds.features.Text(),
                "number": np.int64,
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, data in enumerate(encoded):
                yield (
                    number,
                    {
                        "picture": io.BytesIO(data),
                        "question": f"question {number}?",
                        "answer": "é" * (number + 1),
                        "number": number,
                    },
                )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder = TinyVqa(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
        builder.download_and_prepare()
    return Path(builder.data_path), encoded


def test_tfds_without_tensorflow(tfds_folder):
    folder, encoded = tfds_folder
    assert tfds_splits(folder) == {"train": 3}
    rows = list(read_tfds(folder, "train", Columns(image="picture", meta=("number",)), files_in(folder)))
    for row in rows:
        number = row.meta["number"]
        assert row.turns == ((f"question {number}?", "é" * (number + 1)),)
        assert row.images[0].read() == encoded[number]
    assert sorted(row.meta["number"] for row in rows) == [0, 1, 2]
    assert "tensorflow" not in sys.modules


def test_tfds_errors(tfds_folder, tmp_path):
    folder, _ = tfds_folder
    with pytest.raises(DataError, match=r"no feature \['image'\]; found \['answer', 'number'"):
        list(read_tfds(folder, "train", Columns(), files_in(folder)))
    with pytest.raises(DataError, match=r"no split 'test'; found \['train'\]"):
        list(read_tfds(folder, "test", Columns(), files_in(folder)))
    with pytest.raises(DataError, match=r"no dataset_info\.json"):
        tfds_splits(tmp_path)
