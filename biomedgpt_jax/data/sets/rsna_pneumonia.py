"""RSNA pneumonia detection challenge: chest X-rays in DICOM with a class per patient."""

from collections.abc import Iterator
from pathlib import Path

from biomedgpt_jax.data.comma_separated import csv_rows
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, files_in, find_one, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row
from biomedgpt_jax.data.sets.wording import choose, closed
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw
from biomedgpt_jax.data.splits import split_rows

LABELS, IMAGES = "stage_2_train_labels.csv", "stage_2_train_images"
CLASSES = ("no pneumonia", "pneumonia")


def read(folder: Path) -> Raw:
    """`stage_2_train_labels.csv` (a patient with several boxes has several lines) and `stage_2_train_images/`."""
    path = find_one(folder, LABELS)
    if not (path.parent / IMAGES).is_dir():
        raise DataError(f"{path.parent}: no folder {IMAGES!r} beside {LABELS}; unpack it there")
    find = files_in(path.parent / IMAGES)
    return Raw(split_rows(lambda: _rows(path, find), lambda row: row.meta["case"]), (path,))


def _rows(path: Path, find: ImageFinder) -> Iterator[Row | BadRow]:
    seen: set[str] = set()

    def first_lines() -> Iterator[tuple[int, dict[str, str] | BadRow]]:
        for row, entry in csv_rows(path, ("patientId", "Target")):
            if isinstance(entry, BadRow) or entry["patientId"] not in seen:
                yield row, entry
            if not isinstance(entry, BadRow):
                seen.add(entry["patientId"])

    return rows_of(path.name, first_lines(), lambda row, entry: _row(path, row, entry, find))


def _row(path: Path, row: int, entry: dict[str, str], find: ImageFinder) -> Row:
    patient, target = entry["patientId"], entry["Target"].strip()
    if target not in ("0", "1"):
        raise DataError(f"Target {target[:20]!r}: expected 0 or 1")
    return make_row(
        path.name,
        row,
        id=f"rsna_pneumonia-{patient}",
        images=[find(f"{patient}.dcm")],
        turns=[(choose("Does the chest X-ray show pneumonia?", CLASSES), CLASSES[int(target)])],
        meta=closed("classification", CLASSES, modality="chest X-ray", case=patient),
    )


RSNA_PNEUMONIA = DatasetSpec(
    name="rsna_pneumonia",
    title="RSNA pneumonia detection challenge, pneumonia or not",
    task="classification",
    protocol="classify/v1",
    modality="chest X-ray",
    source="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
    licence="terms of the challenge (research and education)",
    access=Access.REGISTRATION,
    citation=(
        "G. Shih et al. Augmenting the National Institutes of Health chest radiograph dataset with expert annotations "
        "of possible pneumonia. Radiology: Artificial Intelligence 1, e180041 (2019)."
    ),
    published={},
    total=26684,
    read=read,
    download=None,
    splits="ours, by patient",
    member=Member.UNKNOWN,
    checked="the real label file, whole; the images were not seen",
    steps=(
        "Make a Kaggle account and accept the rules at https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
        "kaggle competitions download -c rsna-pneumonia-detection-challenge",
        "Unpack it, so that stage_2_train_labels.csv lies beside the folder stage_2_train_images.",
    ),
)

SPECS = (RSNA_PNEUMONIA,)
