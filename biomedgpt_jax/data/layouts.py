"""How a folder of raw files becomes splits: each function here returns the `read` of a DatasetSpec.

A user's own data is one call: `own_dataset("mine", llava_files({"train": "train.json"}, images="images"))`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from biomedgpt_jax.data.biomedgpt_tsv import TRIAL_ORDER, read_biomedgpt_tsv
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import files_in, find_one, read_llava
from biomedgpt_jax.data.rows import BadRow, Row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, RawSplit
from biomedgpt_jax.data.tables import Columns, read_tables, table_splits
from biomedgpt_jax.data.tfds_source import read_tfds, tfds_splits
from biomedgpt_jax.data.tsv import read_tsv

Read = Callable[[Path], Raw]


def own_dataset(
    name: str,
    read: Read,
    *,
    title: str = "",
    licence: str = "not stated",
    source: str = "local files",
    settings: str = "",
) -> DatasetSpec:
    """A data set of the user's own files; with other `settings` of their reading it is another one."""

    def read_so(folder: Path) -> Raw:
        raw = read(folder)
        return replace(raw, identity=raw.identity + settings)

    return DatasetSpec(
        name=name,
        title=title or name,
        task="as its rows say",
        protocol="strict/v1",
        modality="as its files",
        source=source,
        licence=licence,
        access=Access.LOCAL,
        citation="",
        published={},
        read=read_so,
        download=None,
        splits="the user's own",
        checked="the user's own files",
    )


def llava_files(splits: Mapping[str, str], images: str = ".") -> Read:
    """LLaVA-style JSON or JSONL: split -> file, image paths relative to the folder `images`."""

    def read(folder: Path) -> Raw:
        paths = _files(folder, splits)
        find = files_in(folder / images)
        return raw_files(paths, lambda path: read_llava(path, find))

    return read


def table_folder(columns: Columns, images: str = ".") -> Read:
    """A Hugging Face datasets folder (Parquet or Arrow); its files name the splits."""

    def read(folder: Path) -> Raw:
        splits = table_splits(folder)
        find = files_in(folder / images)
        return Raw(
            {
                name: RawSplit(lambda files=files: read_tables(files, columns, find), None)
                for name, files in splits.items()
            },
            tuple(path for files in splits.values() for path in files),
        )

    return read


def tsv_files(splits: Mapping[str, str], images: str = ".") -> Read:
    """Tab-separated files with a header line."""

    def read(folder: Path) -> Raw:
        find = files_in(folder / images)
        return raw_files(_files(folder, splits), lambda path: read_tsv(path, find))

    return read


def biomedgpt_files(splits: Mapping[str, str], table: str, trial_order: Sequence[str] = TRIAL_ORDER) -> Read:
    """BiomedGPT's headerless files, of one of the tables of biomedgpt_tsv.py."""
    return lambda folder: raw_files(_files(folder, splits), lambda path: read_biomedgpt_tsv(path, table, trial_order))


def tfds_folder(columns: Columns) -> Read:
    """The version folder of a prepared TFDS data set (ArrayRecord)."""

    def read(folder: Path) -> Raw:
        find = files_in(folder)
        return Raw(
            {
                name: RawSplit(lambda name=name: read_tfds(folder, name, columns, find), total)
                for name, total in tfds_splits(folder).items()
            },
            (folder / "dataset_info.json",),
        )

    return read


def raw_named(folder: Path, files: Mapping[str, str], rows: Callable[[Path], Iterable[Row | BadRow]]) -> Raw:
    """One file per split, found by its name anywhere below the folder."""
    return raw_files({split: find_one(folder, name) for split, name in files.items()}, rows)


def _files(folder: Path, splits: Mapping[str, str]) -> dict[str, Path]:
    paths = {name: folder / file for name, file in splits.items()}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    folders = [str(path) for path in paths.values() if path.is_dir()]
    if folders:
        raise DataError(f"{', '.join(folders)}: a folder, expected a file of rows")
    if missing:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{', '.join(missing)}: no such file; {folder} holds: {found}")
    return paths


def raw_files(paths: Mapping[str, Path], rows: Callable[[Path], Iterable[Row | BadRow]]) -> Raw:
    """One file per split, read by `rows`."""
    splits = {name: RawSplit(lambda path=path: rows(path), None) for name, path in paths.items()}
    return Raw(splits, tuple(paths.values()))
