"""Peir Gross: photographs of pathology with captions, as bioCaption writes them from the PEIR digital library."""

from collections.abc import Iterator
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, files_in, find_one, numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, spaces
from biomedgpt_jax.data.sets.wording import caption_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit
from biomedgpt_jax.data.splits import split_rows

TRAIN, TEST, IMAGES = "train_images.tsv", "test_images.tsv", "peir_gross_images"
VALIDATION = (("validation", 10),)


def read(folder: Path) -> Raw:
    """Lines of picture name, tab, caption, without a header; pictures in `peir_gross_images/`."""
    train, test = find_one(folder, TRAIN), find_one(folder, TEST)
    if not (train.parent / IMAGES).is_dir():
        raise DataError(f"{train.parent}: no folder {IMAGES!r} of pictures beside {TRAIN}")
    find = files_in(train.parent / IMAGES)
    parts = split_rows(lambda: _rows(train, find), lambda row: row.id, VALIDATION)
    return Raw({**parts, "test": RawSplit(lambda: _rows(test, find), None)}, (train, test))


def _rows(path: Path, find: ImageFinder) -> Iterator[Row | BadRow]:
    return rows_of(path.name, numbered_lines(path), lambda row, line: _row(path, row, line, find))


def _row(path: Path, row: int, line: str, find: ImageFinder) -> Row:
    name, mark, caption = line.partition("\t")
    if not mark:
        raise DataError("expected 2 tab-separated columns, found 1")
    id = f"peir_gross-{Path(name).stem}"
    return caption_row(path.name, row, id, find(name), spaces(caption), modality="photograph of pathology")


PEIR_GROSS = DatasetSpec(
    name="peir_gross",
    title="Peir Gross, captions of pathology photographs",
    task="captioning",
    protocol="caption/v1",
    modality="photographs of pathology",
    source="https://github.com/nlpaueb/bioCaption",
    licence="unclear (PEIR digital library, University of Alabama at Birmingham)",
    access=Access.OPEN,
    citation="V. Kougia, J. Pavlopoulos, I. Androutsopoulos. A survey on biomedical image captioning. SiVL 2019.",
    published={},
    total=7443,
    read=read,
    download=None,
    splits="test: bioCaption's; validation: ours, by picture",
    member=Member.LIKELY,
    checked="layout from bioCaption's script; the real files were not seen",
    steps=(
        "Clone https://github.com/nlpaueb/bioCaption and call its download_peir_gross(): it reads the web site of the "
        "PEIR library page by page and writes train_images.tsv, test_images.tsv and peir_gross_images/.",
    ),
)

SPECS = (PEIR_GROSS,)
