"""MedMNIST: pictures of 28, 64, 128 and 224 pixels, as arrays in one npz file per set and size.

Each picture has one class; those of ChestMNIST have any of its 14 findings, which are then answered together.

Sizes, classes and checksums are those of MedMNIST 3.0. The organ sets of its earlier version 2, which BiomedGPT's
papers count, hold a few more pictures.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.data.download import fetch_url
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import find_one, rows_of
from biomedgpt_jax.data.rows import BadRow, ImagePixels, Row, make_row
from biomedgpt_jax.data.sets.wording import choose, closed, free
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit, Report

BASE = "https://zenodo.org/records/10519652/files"
PIXELS = (28, 64, 128, 224)
PARTS = {"train": "train", "validation": "val", "test": "test"}
NOTHING = "no finding"
ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
    "lung-right", "pancreas", "spleen",
)  # fmt: skip


@dataclass(frozen=True)
class MedMnist:
    """One set: its classes by label, its pictures in training, validation and test, MD5 of the files by PIXELS.
    `several`: a picture may have any number of the classes.
    """

    name: str
    modality: str
    question: str
    classes: tuple[str, ...]
    sizes: tuple[int, int, int]
    md5: tuple[str, str, str, str]
    member: Member = Member.LIKELY
    licence: str = "CC-BY-4.0"
    several: bool = False

    def file(self, pixels: int) -> str:
        return f"{self.name}.npz" if pixels == 28 else f"{self.name}_{pixels}.npz"


def read(each: MedMnist, pixels: int) -> Callable[[Path], Raw]:
    def read_folder(folder: Path) -> Raw:
        path = find_one(folder, each.file(pixels))
        return Raw({split: RawSplit(lambda s=split: _rows(each, path, s), None) for split in PARTS}, (path,))

    return read_folder


def fetch(each: MedMnist, pixels: int) -> Callable[[Path, Report], None]:
    def fetch_folder(folder: Path, report: Report) -> None:
        name = each.file(pixels)
        fetch_url(f"{BASE}/{name}?download=1", folder / name, report, f"md5:{each.md5[PIXELS.index(pixels)]}")

    return fetch_folder


def _rows(each: MedMnist, path: Path, split: str) -> Iterator[Row | BadRow]:
    try:
        with zipfile.ZipFile(path) as packed:
            labels = _labels(packed, f"{PARTS[split]}_labels.npy", len(each.classes) if each.several else 1)
            pictures = _pictures(packed, f"{PARTS[split]}_images.npy", len(labels))
            entries = enumerate(zip(labels.tolist(), pictures, strict=True), 1)
            make = _several if each.several else _one
            yield from rows_of(path.name, entries, lambda row, entry: make(each, path, split, row, *entry))
    except (zipfile.BadZipFile, KeyError, IndexError, EOFError, zlib.error, ValueError) as reason:
        raise DataError(f"{path}: not the npz file of {each.name} ({reason}); fetch it again") from reason


def _labels(packed: zipfile.ZipFile, member: str, columns: int) -> np.ndarray:
    """Integers [n columns]."""
    with packed.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False).reshape(-1, columns)


def _pictures(packed: zipfile.ZipFile, member: str, count: int) -> Iterator[np.ndarray]:
    """One picture after the other: a whole array of 224 pixels may be larger than the memory."""
    with packed.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, kind = header(file)
        if kind != np.uint8 or by_columns or shape[0] != count:
            raise ValueError(f"pictures of {kind} in shape {shape}, expected uint8 and {count} of them")
        for _ in range(count):
            data = file.read(int(np.prod(shape[1:])))
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])


def _one(each: MedMnist, path: Path, split: str, row: int, labels: list[int], picture: np.ndarray) -> Row:
    (label,) = labels
    if not 0 <= label < len(each.classes):
        raise DataError(f"label {label}: expected one of 0 to {len(each.classes) - 1}")
    asked = choose(each.question, each.classes)
    meta = closed("classification", each.classes, modality=each.modality, label=label)
    return _row(each, path, split, row, picture, (asked, each.classes[label]), meta)


def _several(each: MedMnist, path: Path, split: str, row: int, labels: list[int], picture: np.ndarray) -> Row:
    if not set(labels) <= {0, 1}:
        raise DataError(f"labels {sorted(set(labels))}: expected 0 and 1 alone")
    shown = [name for name, label in zip(each.classes, labels, strict=True) if label]
    asked = f"{each.question} Name all of: {'; '.join(each.classes)}; or {NOTHING}."
    meta = free("findings", modality=each.modality, labels=labels, classes=list(each.classes))
    return _row(each, path, split, row, picture, (asked, ", ".join(shown) or NOTHING), meta)


def _row(
    each: MedMnist, path: Path, split: str, row: int, picture: np.ndarray, turn: tuple[str, str], meta: dict[str, Any]
) -> Row:
    id = f"{each.name}-{split}-{row}"
    images = [ImagePixels(picture, f"{id}.png")]
    return make_row(path.name, row, id=id, images=images, turns=[turn], meta=meta)


def _specs(each: MedMnist) -> tuple[DatasetSpec, ...]:
    return tuple(
        DatasetSpec(
            name=each.name if pixels == 28 else f"{each.name}_{pixels}",
            title=f"MedMNIST 3.0: {each.name}, {pixels} pixels",
            task="classification",
            protocol="medmnist/v1",
            modality=each.modality,
            source=f"{BASE}/{each.file(pixels)}",
            licence=each.licence,
            access=Access.OPEN,
            citation=(
                "J. Yang et al. MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image "
                "classification. Scientific Data 10, 41 (2023)."
            ),
            published=dict(zip(PARTS, each.sizes, strict=True)),
            read=read(each, pixels),
            download=fetch(each, pixels),
            member=each.member,
            checked="facts from the package medmnist 3.0.2; layout as published, the real files were not seen",
        )
        for pixels in PIXELS
    )


SETS = (
    MedMnist(
        "pathmnist", "histology of the colon", "Which tissue does the image show?",
        ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
         "cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        (89996, 10004, 7180),
        (
            "a8b06965200029087d5bd730944a56c1", "55aa9c1e0525abe5a6b9d8343a507616",
            "ac42d08fb904d92c244187169d1fd1d9", "2c51a510bcdc9cf8ddb2af93af1eadec",
        ),
    ),
    MedMnist(
        "chestmnist", "chest X-ray", "Which findings does the chest X-ray show?",
        ("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
         "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
        (78468, 11219, 22433),
        (
            "02c8a6516a18b556561a56cbdd36c4a8", "9de6cd0b934ebb5b7426cfba5efbae16",
            "db107e5590b27930b62dbaf558aebee3", "45bd33e6f06c3e8cdb481c74a89152aa",
        ),
        member=Member.UNKNOWN,
        several=True,
    ),
    MedMnist(
        "dermamnist", "dermatoscopy", "Which skin lesion does the image show?",
        ("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
         "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
        (7007, 1003, 2005),
        (
            "0744692d530f8e62ec473284d019b0c7", "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1", "8974907d8e169bef5f5b96bc506ae45d",
        ),
        licence="CC-BY-NC-4.0",
    ),
    MedMnist(
        "octmnist", "optical coherence tomography of the retina", "Which finding does the image show?",
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        (97477, 10832, 1000),
        (
            "c68d92d5b585d8d81f7112f81e2d0842", "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae", "abc493b6d529d5de7569faaef2773ba3",
        ),
    ),
    MedMnist(
        "pneumoniamnist", "chest X-ray of children", "Which finding does the image show?",
        ("normal", "pneumonia"),
        (4708, 524, 624),
        (
            "28209eda62fecd6e6a2d98b1501bb15f", "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971", "d6a3c71de1b945ea11211b03746c1fe1",
        ),
    ),
    MedMnist(
        "retinamnist", "fundus photography", "Which grade of diabetic retinopathy does the image show?",
        ("0", "1", "2", "3", "4"),
        (1080, 120, 400),
        (
            "bd4c0672f1bba3e3a89f0e4e876791e4", "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18", "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
        member=Member.UNKNOWN,
    ),
    MedMnist(
        "breastmnist", "ultrasound of the breast", "Which finding does the image show?",
        ("malignant", "normal, benign"),
        (546, 78, 156),
        (
            "750601b1f35ba3300ea97c75c52ff8f6", "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1", "b56378a6eefa9fed602bb16d192d4c8b",
        ),
    ),
    MedMnist(
        "bloodmnist", "microscopy of blood cells", "Which kind of blood cell does the image show?",
        ("basophil", "eosinophil", "erythroblast",
         "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)", "lymphocyte", "monocyte",
         "neutrophil", "platelet"),
        (11959, 1712, 3421),
        (
            "7053d0359d879ad8a5505303e11de1dc", "2b94928a2ae4916078ca51e05b6b800b",
            "adace1e0ed228fccda1f39692059dd4c", "b718ff6835fcbdb22ba9eacccd7b2601",
        ),
    ),
    MedMnist(
        "tissuemnist", "microscopy of kidney cortex", "Which kind of kidney cell does the image show?",
        ("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
         "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments",
         "Thick Ascending Limb"),
        (165466, 23640, 47280),
        (
            "ebe78ee8b05294063de985d821c1c34b", "123ece2eba09d0aa5d698fda57103344",
            "61b955355d7425a89687b06cca3ce0c2", "b077128c4a949f0a4eb01517f9037b9c",
        ),
        member=Member.UNKNOWN,
    ),
    MedMnist(
        "organamnist", "abdominal CT, axial", "Which organ does the image show?", ORGANS,
        (34561, 6491, 17778),
        (
            "68e3f8846a6bd62f0c9bf841c0d9eacc", "2dcccc29b88e6da5a01161ef20cda288",
            "eeae80d0a227a8d099027e1b3cfd3b60", "50747347e05c87dd3aaf92c49f9f3170",
        ),
        member=Member.UNKNOWN,
    ),
    MedMnist(
        "organcmnist", "abdominal CT, coronal", "Which organ does the image show?", ORGANS,
        (12975, 2392, 8216),
        (
            "b9ceb9546e10131b32923c5bbeaea2b1", "3ce34a8724ea6f548e6db4744d03b6a9",
            "773c1f009daa3fe5d9a2a201b2a7ed94", "050f5e875dc056f6768abf94ec9995d1",
        ),
    ),
    MedMnist(
        "organsmnist", "abdominal CT, sagittal", "Which organ does the image show?", ORGANS,
        (13932, 2452, 8827),
        (
            "9ab87b696fb54e2a387ebe992d6ed5f1", "53a6d115339d874c25e309a994ff46d3",
            "ded0c5fa01a95dc4978b956f613e9b8e", "b354719e553fbbb2513d5533f52a4cb1",
        ),
        member=Member.UNKNOWN,
    ),
)  # fmt: skip

SPECS = tuple(spec for each in SETS for spec in _specs(each))
