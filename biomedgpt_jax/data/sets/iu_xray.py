"""Indiana University chest X-rays: reports as XML, pictures as PNG; each picture with the text of its report.

Reports and test split are those of bioCaption, which BiomedGPT uses: the reports with pictures, findings and impression
in the order of their names, shuffled by Python's generator with seed 42; the last fifth is the test. It has no
validation split: ours is drawn from its training reports.
"""

import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from biomedgpt_jax.data.download import fetch_url, untar
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, files_in
from biomedgpt_jax.data.rows import BadRow, Row, spaces
from biomedgpt_jax.data.sets.wording import caption_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit, Report
from biomedgpt_jax.data.splits import hash_split

BASE = "https://openi.nlm.nih.gov/imgs/collections"
REPORTS, IMAGES = "NLMCXR_reports.tgz", "NLMCXR_png.tgz"
FOLDER = "ecgen-radiology"
TRAIN_SHARE, SEED = 0.8, 42
VALIDATION = (("validation", 10),)


@dataclass(frozen=True)
class _Report:
    file: str
    findings: str
    impression: str
    images: tuple[str, ...]
    indication: str

    @property
    def complete(self) -> bool:
        return bool(self.images and self.findings and self.impression)


def fetch(folder: Path, report: Report) -> None:
    for name, into in ((REPORTS, "reports"), (IMAGES, "images")):
        fetch_url(f"{BASE}/{name}", folder / name, report)
        untar(folder / name, folder / into)


def read(folder: Path) -> Raw:
    """Reports from `ecgen-radiology/`, pictures from `images/` or the folder itself, both anywhere below."""
    found = sorted(path for path in folder.rglob(FOLDER) if path.is_dir())
    if not found:
        raise DataError(f"{folder}: no folder {FOLDER!r} of reports there or below")
    files = sorted(found[0].glob("*.xml"), key=lambda path: path.name)
    if not files:
        raise DataError(f"{found[0]}: no report (*.xml)")
    reports = {path.name: _parse(path) for path in files}
    splits = _splits(reports)
    find = files_in(_image_folder(folder))

    def rows(split: str) -> Iterator[Row | BadRow]:
        for number, (name, report) in enumerate(reports.items(), 1):
            if isinstance(report, BadRow):
                if split == "train":
                    yield BadRow(name, number, report.reason)
            elif splits.get(name) == split:
                yield from _rows(number, report, find)

    made = {split: RawSplit(lambda s=split: rows(s), None) for split in ("train", "validation", "test")}
    return Raw(made, tuple(files))


def _parse(path: Path) -> _Report | BadRow:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as reason:
        return BadRow(path.name, 1, f"not XML ({reason})")
    texts = {each.get("Label"): spaces(each.text or "") for each in root.iter("AbstractText")}
    images = tuple(each.get("id", "") for each in root.findall("parentImage"))
    return _Report(
        path.name, texts.get("FINDINGS", ""), texts.get("IMPRESSION", ""), images, texts.get("INDICATION", "")
    )


def _splits(reports: Mapping[str, _Report | BadRow]) -> dict[str, str]:
    """Report -> split, of the reports that have pictures and both sections; the others are left out."""
    order = [name for name, each in reports.items() if isinstance(each, _Report) and each.complete]
    random.Random(SEED).shuffle(order)
    cut = int(len(order) * TRAIN_SHARE)
    split = {name: hash_split(name, VALIDATION, rest="train") for name in order[:cut]}
    return split | dict.fromkeys(order[cut:], "test")


def _rows(number: int, report: _Report, find: ImageFinder) -> Iterator[Row | BadRow]:
    """One row per picture. The text is impression, then findings."""
    text = f"{report.impression} {report.findings}"
    for image in report.images:
        facts = {"case": report.file, "indication": report.indication, "modality": "chest X-ray"}
        try:
            yield caption_row(report.file, number, f"iu_xray-{image}", find(f"{image}.png"), text, **facts)
        except DataError as reason:
            yield BadRow(report.file, number, str(reason))


def _image_folder(folder: Path) -> Path:
    first = next(iter(sorted(folder.rglob("*.png"))), None)
    if first is None:
        raise DataError(f"{folder}: no picture (*.png) there or below")
    return first.parent


IU_XRAY = DatasetSpec(
    name="iu_xray",
    title="Indiana University chest X-rays, captions from reports",
    task="captioning",
    protocol="caption/v1",
    modality="chest X-ray",
    source="https://openi.nlm.nih.gov/faq#collection",
    licence="CC-BY-NC-ND-4.0",
    access=Access.OPEN,
    citation=(
        "D. Demner-Fushman et al. Preparing a collection of radiology examinations for distribution and retrieval. "
        "JAMIA 23, 304 (2016)."
    ),
    # Counted in the real reports.
    published={"train": 4645, "validation": 527, "test": 1289},
    read=read,
    download=fetch,
    splits="test: bioCaption's; validation: ours, by report",
    member=Member.LIKELY,
    checked="the real reports, whole; the pictures were not seen",
)

SPECS = (IU_XRAY,)
