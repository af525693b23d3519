"""The chest X-rays for tuberculosis of Montgomery County and Shenzhen: the name of a picture ends in its label."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from biomedgpt_jax.data.download import fetch_mirrors, unzip
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import rows_of
from biomedgpt_jax.data.rows import BadRow, Row, image_file, make_row, spaces
from biomedgpt_jax.data.sets.wording import choose, closed
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, Report
from biomedgpt_jax.data.splits import split_rows

BASES = (
    "https://openi.nlm.nih.gov/imgs/collections",
    "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets",
)
PICTURES, READINGS = "CXR_png", "ClinicalReadings"
CLASSES = ("normal", "tuberculosis")
LABEL = re.compile(r".+_([01])\.png")
AGE = re.compile(r"(\d+)\s*(?:Y|yrs?|years?)\b", re.IGNORECASE)


def fetch(archive: str) -> Callable[[Path, Report], None]:
    def fetch_folder(folder: Path, report: Report) -> None:
        fetch_mirrors([f"{base}/{archive}" for base in BASES], folder / archive, report)
        unzip(folder / archive, folder / Path(archive).stem)

    return fetch_folder


def read(name: str) -> Callable[[Path], Raw]:
    """Pictures in `CXR_png/`, one text per picture in `ClinicalReadings/` beside it (it may be missing)."""

    def read_folder(folder: Path) -> Raw:
        found = sorted(path for path in folder.rglob(PICTURES) if path.is_dir())
        if not found:
            raise DataError(f"{folder}: no folder {PICTURES!r} there or below")
        pictures = sorted(found[0].glob("*.png"))

        def rows() -> Iterator[Row | BadRow]:
            return rows_of(PICTURES, enumerate(pictures, 1), lambda row, path: _row(name, row, path))

        # One picture per patient.
        return Raw(split_rows(rows, lambda row: row.id), tuple(pictures))

    return read_folder


def _row(name: str, row: int, path: Path) -> Row:
    label = LABEL.fullmatch(path.name)
    if not label:
        raise DataError(f"{path.name}: expected a name that ends in _0.png or _1.png")
    reading = path.parent.parent / READINGS / f"{path.stem}.txt"
    text = spaces(reading.read_text(errors="replace")) if reading.is_file() else ""
    age = AGE.search(text)
    return make_row(
        PICTURES,
        row,
        id=f"{name}-{path.stem}",
        images=[image_file(path.parent, path.name)],
        turns=[(choose("Which finding does the chest X-ray show?", CLASSES), CLASSES[int(label.group(1))])],
        meta=closed(
            "classification",
            CLASSES,
            modality="chest X-ray",
            case=path.stem,
            reading=text,
            age=age and int(age.group(1)),
        ),
    )


def _spec(name: str, title: str, archive: str, total: int) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task="classification",
        protocol="classify/v1",
        modality="chest X-ray",
        source=f"{BASES[0]}/{archive}",
        licence="terms of the National Library of Medicine (cite, do not pass on)",
        access=Access.OPEN,
        citation=(
            "S. Jaeger et al. Two public chest X-ray datasets for computer-aided screening of pulmonary diseases. "
            "Quantitative Imaging in Medicine and Surgery 4, 475 (2014)."
        ),
        published={},
        total=total,
        read=read(name),
        download=fetch(archive),
        splits="ours, by patient (one picture each)",
        member=Member.LIKELY,
    )


SPECS = (
    _spec("montgomery", "Montgomery County chest X-rays, tuberculosis", "NLM-MontgomeryCXRSet.zip", 138),
    _spec("shenzhen", "Shenzhen chest X-rays, tuberculosis", "ChinaSet_AllFiles.zip", 662),
)
