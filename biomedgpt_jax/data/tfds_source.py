"""TensorFlow Datasets folders in ArrayRecord format, read without TensorFlow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row
from biomedgpt_jax.data.tables import Columns, as_image, as_text


def read_tfds(folder: Path, split: str, columns: Columns, find_image: ImageFinder) -> Iterator[Row | BadRow]:
    """One split of a prepared builder folder (the one with dataset_info.json). Images stay encoded as
    stored.
    """
    source = _data_source(folder, split, columns)
    entries = ((row + 1, source[row]) for row in range(len(source)))
    return rows_of(folder.name, entries, lambda row, entry: _row(folder, split, row, entry, columns, find_image))


def tfds_splits(folder: Path) -> dict[str, int]:
    """Split name -> number of examples."""
    return {name: int(info.num_examples) for name, info in _builder(folder).info.splits.items()}


def _builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    if not (folder / "dataset_info.json").is_file():
        raise DataError(f"{folder}: no dataset_info.json; expected the version folder of a prepared TFDS data set")
    try:
        return tfds.builder_from_directory(folder)
    # tfds raises many kinds of exception for damaged metadata.
    except Exception as reason:
        raise DataError(f"{folder}: not a readable TFDS data set ({reason})") from reason


def _data_source(folder: Path, split: str, columns: Columns) -> Any:
    import tensorflow_datasets as tfds

    builder = _builder(folder)
    if split not in builder.info.splits:
        raise DataError(f"{folder}: no split {split!r}; found {sorted(builder.info.splits)}")
    form = str(builder.info.file_format.value)
    if form != "array_record":
        raise DataError(
            f"{folder}: stored as {form}, which only TensorFlow reads; prepare it with "
            'builder_kwargs file_format="array_record"'
        )
    features = builder.info.features
    missing = sorted(columns.needed() - set(features))
    if missing:
        raise DataError(f"{folder}: no feature {missing}; found {sorted(features)}")
    skip = {columns.image: tfds.decode.SkipDecoding()} if columns.image else None
    return builder.as_data_source(split=split, decoders=skip)


def _row(folder: Path, split: str, row: int, entry: dict[str, Any], columns: Columns, find_image: ImageFinder) -> Row:
    name = f"{split}-{row}"
    plain = {column: _plain(entry[column]) for column in columns.needed()}
    image = plain[columns.image] if columns.image else None
    return make_row(
        folder.name,
        row,
        id=str(plain[columns.id]) if columns.id else name,
        images=[as_image(image, name, find_image)] if image is not None else [],
        turns=[(as_text(plain[columns.question], "question"), as_text(plain[columns.answer], "answer"))],
        meta={column: _meta(plain[column], column) for column in columns.meta},
    )


def _plain(value: Any) -> Any:
    """NumPy scalars to Python ones."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _meta(value: Any, column: str) -> Any:
    return as_text(value, column) if isinstance(value, bytes) else value
