"""CBIS-DDSM: masses and calcifications in mammograms, as cut-outs around each abnormality with its pathology."""

from collections.abc import Callable, Iterator
from pathlib import Path

from biomedgpt_jax.data.comma_separated import csv_rows
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import find_one, rows_of
from biomedgpt_jax.data.rows import BadRow, ImageFile, ImageRef, Row, make_row
from biomedgpt_jax.data.sets.wording import choose, closed
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit
from biomedgpt_jax.data.splits import split_rows

CLASSES = {
    "BENIGN": "benign",
    "BENIGN_WITHOUT_CALLBACK": "benign without callback",
    "MALIGNANT": "malignant",
}
PATIENT, VIEW, SIDE = "patient_id", "image view", "left or right breast"
NUMBER, PATHOLOGY, CROP = "abnormality id", "pathology", "cropped image file path"
VALIDATION = (("validation", 10),)
JPEG_INDEX = "dicom_info.csv"

Finder = Callable[[str], ImageRef]


def read(kind: str) -> Callable[[Path], Raw]:
    """`kind`: "mass" or "calc". The case lists lie anywhere below the folder; the cut-outs in the DICOM folders of
    The Cancer Imaging Archive (either naming of its downloader), or in the JPEG copy on Kaggle (csv/ and jpeg/).
    """

    def read_folder(folder: Path) -> Raw:
        train, test = (find_one(folder, f"{kind}_case_description_{part}_set.csv") for part in ("train", "test"))
        find = _jpegs(folder) if any(folder.rglob(JPEG_INDEX)) else _dicoms(folder)
        parts = split_rows(lambda: _rows(kind, train, find), lambda row: row.meta["case"], VALIDATION)
        return Raw({**parts, "test": RawSplit(lambda: _rows(kind, test, find), None)}, (train, test))

    return read_folder


def _rows(kind: str, path: Path, find: Finder) -> Iterator[Row | BadRow]:
    entries = csv_rows(path, (PATIENT, VIEW, SIDE, NUMBER, PATHOLOGY, CROP))
    return rows_of(path.name, entries, lambda row, entry: _row(kind, path, row, entry, find))


def _row(kind: str, path: Path, row: int, entry: dict[str, str], find: Finder) -> Row:
    pathology = entry[PATHOLOGY].strip()
    if pathology not in CLASSES:
        raise DataError(f"pathology {pathology!r}: expected one of {', '.join(CLASSES)}")
    classes = tuple(CLASSES.values())
    side, view = entry[SIDE].strip().lower(), entry[VIEW].strip()
    what = "mass" if kind == "mass" else "calcification"
    id = f"cbis_{kind}-{entry[PATIENT]}-{side}-{view}-{entry[NUMBER]}"
    return make_row(
        path.name,
        row,
        id=id,
        # The published lists have line ends inside of paths.
        images=[find(entry[CROP].strip())],
        turns=[(choose(f"Is the {what} in this mammogram benign or malignant?", classes), CLASSES[pathology])],
        meta=closed("classification", classes, modality="mammography", case=entry[PATIENT], view=view, side=side),
    )


def _dicoms(folder: Path) -> Finder:
    """By the first part of the listed path, a patient's folder. Its cut-out and its mask may have changed places, and
    the downloader gives its own names below: of the files there the smaller one is the cut-out.
    """
    root = {path.name: path for path in folder.rglob("*_P_*") if path.is_dir()}

    def find(listed: str) -> ImageRef:
        first = listed.split("/", 1)[0]
        if first not in root:
            raise DataError(f"{first}: no such folder of DICOM files")
        files = sorted(root[first].rglob("*.dcm"), key=lambda path: (path.stat().st_size, path.name))
        if not files:
            raise DataError(f"{first}: no DICOM file in its folder")
        return ImageFile(files[0], str(files[0].relative_to(folder)), folder)

    return find


def _jpegs(folder: Path) -> Finder:
    """By the series in the listed path; the index of the copy says which of its pictures is the cut-out."""
    index = find_one(folder, JPEG_INDEX)
    root = index.parent.parent
    series: dict[str, str] = {}
    for _, entry in csv_rows(index, ("image_path", "SeriesDescription", "SeriesInstanceUID")):
        if not isinstance(entry, BadRow) and entry["SeriesDescription"].strip() == "cropped images":
            series[entry["SeriesInstanceUID"].strip()] = entry["image_path"].strip().removeprefix("CBIS-DDSM/")

    def find(listed: str) -> ImageRef:
        parts = listed.split("/")
        if len(parts) != 4 or parts[2] not in series:
            raise DataError(f"{listed[:80]}: no cut-out of this series in {JPEG_INDEX}")
        return ImageFile(root / series[parts[2]], series[parts[2]], root)

    return find


def _spec(kind: str, name: str, title: str, counts: tuple[int, int]) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=f"CBIS-DDSM, {title}",
        task="classification",
        protocol="classify/v1",
        modality="mammography",
        source="https://www.cancerimagingarchive.net/collection/cbis-ddsm",
        licence="CC-BY-3.0",
        access=Access.REGISTRATION,
        citation=(
            "R. S. Lee et al. A curated mammography data set for use in computer-aided detection and diagnosis "
            "research. Scientific Data 4, 170177 (2017)."
        ),
        published={"test": counts[1]},
        total=sum(counts),
        read=read(kind),
        download=None,
        splits="published (test); validation: ours, by patient",
        member=Member.LIKELY,
        steps=(
            "From https://www.cancerimagingarchive.net/collection/cbis-ddsm get the lists "
            f"{kind}_case_description_train_set.csv and {kind}_case_description_test_set.csv, and with the NBIA Data "
            "Retriever the images (about 160 GB).",
            "Or, with a Kaggle account, the JPEG copy: "
            "kaggle datasets download awsaf49/cbis-ddsm-breast-cancer-image-dataset",
            "Put the lists and the unpacked images into one folder.",
        ),
    )


SPECS = (
    _spec("mass", "cbis_ddsm_mass", "masses", (1318, 378)),
    _spec("calc", "cbis_ddsm_calcification", "calcifications", (1546, 326)),
)
