"""MIMIC-CXR: chest X-rays with the findings of their reports, and impressions from findings; in its own splits."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from biomedgpt_jax.data.comma_separated import csv_rows, plain_or_gzip
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import rows_of
from biomedgpt_jax.data.rows import BadRow, Row, image_file
from biomedgpt_jax.data.sets import physionet
from biomedgpt_jax.data.sets.wording import caption_row, summary_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit

SPLIT_FILE = "mimic-cxr-2.0.0-split.csv"
SPLITS = {"train": "train", "validation": "validate", "test": "test"}
COLUMNS = ("dicom_id", "study_id", "subject_id", "split")
NUMBER = re.compile(r"\d+")
OTHER_HEADING = r"(?-i:[A-Z][A-Z ,/&()-]{3,}):"

Line = dict[str, str]
Make = Callable[[Path, Path, int, Line, dict[str, str]], Row]


def read_captions(folder: Path) -> Raw:
    """One row per picture whose report has findings. `files/pNN/pNNNNNNNN/sNNNNNNNN/ID.jpg` (of MIMIC-CXR-JPG) and
    `.../sNNNNNNNN.txt` (of mimic-cxr-reports.zip, unpacked) lie in one tree or in two.
    """
    return _read(folder, _caption, ("findings",), per_study=False)


def read_summaries(folder: Path) -> Raw:
    """One row per report with findings and an impression."""
    return _read(folder, _summary, ("findings", "impression"), per_study=True)


def _read(folder: Path, make: Make, needed: tuple[str, ...], per_study: bool) -> Raw:
    listed = plain_or_gzip(folder, SPLIT_FILE)
    trees = sorted(path for path in folder.rglob("files") if path.is_dir())
    pictures = next((tree for tree in trees if next(tree.glob("p*/p*/s*/*.jpg"), None)), None)
    reports = next((tree for tree in trees if next(tree.glob("p*/p*/s*.txt"), None)), None)
    if reports is None or (pictures is None and not per_study):
        what = "reports (files/p*/p*/s*.txt)" if reports is None else "pictures (files/p*/p*/s*/*.jpg)"
        raise DataError(f"{folder}: no {what} there or below")

    def rows(split: str) -> Iterator[Row | BadRow]:
        seen: set[str] = set()
        entries = (
            (row, line if isinstance(line, BadRow) else (line, _sections(reports, line)))
            for row, line in csv_rows(listed, COLUMNS)
            if _wanted(line, SPLITS[split], seen, per_study)
        )
        whole = ((row, entry) for row, entry in entries if isinstance(entry, BadRow) or set(needed) <= set(entry[1]))
        return rows_of(listed.name, whole, lambda row, entry: make(listed, pictures or reports, row, *entry))

    return Raw({split: RawSplit(lambda s=split: rows(s), None) for split in SPLITS}, (listed,))


def _wanted(line: Line | BadRow, split: str, seen: set[str], per_study: bool) -> bool:
    """A broken line is told with the training."""
    if isinstance(line, BadRow):
        return split == SPLITS["train"]
    if line["split"] != split or (per_study and line["study_id"] in seen):
        return False
    seen.add(line["study_id"])
    return True


def _sections(reports: Path, line: Line) -> dict[str, str]:
    """Findings and impression of a study; {} where there is no report."""
    path = _study(reports, line).with_suffix(".txt")
    if not path.is_file():
        return {}
    return physionet.sections(path.read_text(errors="replace"), ("Findings", "Impression"), OTHER_HEADING)


def _study(tree: Path, line: Line) -> Path:
    patient, study = line["subject_id"], line["study_id"]
    # A damaged list may not lead out of the tree.
    if not (NUMBER.fullmatch(patient) and NUMBER.fullmatch(study)):
        return tree / "p" / "none"
    return tree / f"p{patient[:2]}" / f"p{patient}" / f"s{study}"


def _caption(listed: Path, pictures: Path, row: int, line: Line, parts: dict[str, str]) -> Row:
    name = f"{_study(pictures, line).relative_to(pictures)}/{line['dicom_id']}.jpg"
    facts = {"case": line["subject_id"], "study": line["study_id"], "modality": "chest X-ray"}
    id = f"mimic_cxr-{line['dicom_id']}"
    return caption_row(listed.name, row, id, image_file(pictures, name), parts["findings"], **facts)


def _summary(listed: Path, pictures: Path, row: int, line: Line, parts: dict[str, str]) -> Row:
    facts = {"case": line["subject_id"], "study": line["study_id"]}
    id = f"mimic_cxr_summaries-{line['study_id']}"
    what = "the findings of this radiology report"
    return summary_row(listed.name, row, id, parts["findings"], parts["impression"], what, **facts)


def _spec(name: str, title: str, task: str, protocol: str, modality: str, read: Callable[[Path], Raw]) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task=task,
        protocol=protocol,
        modality=modality,
        source="https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
        licence=physionet.LICENCE,
        access=Access.CREDENTIALED,
        citation=(
            "A. E. W. Johnson et al. MIMIC-CXR, a de-identified publicly available database of chest radiographs with "
            "free-text reports. Scientific Data 6, 317 (2019)."
        ),
        # 368960, 2991 and 5159 pictures; how many of their reports have the sections was not published.
        published={},
        read=read,
        download=None,
        member=Member.LIKELY,
        steps=(
            *physionet.steps("mimic-cxr-jpg", "2.1.0", (f"{SPLIT_FILE}.gz", "files/")),
            "Sign the agreement of https://physionet.org/content/mimic-cxr/2.1.0/ too, get its mimic-cxr-reports.zip, "
            "and unpack it beside (captions need pictures and reports, summaries the list of splits and the reports).",
        ),
    )


SPECS = (
    _spec("mimic_cxr", "MIMIC-CXR, findings from pictures", "captioning", "caption/v1", "chest X-ray", read_captions),
    _spec(
        "mimic_cxr_summaries",
        "MIMIC-CXR, impressions from findings",
        "summarisation",
        "summary/v1",
        "text (radiology reports)",
        read_summaries,
    ),
)
