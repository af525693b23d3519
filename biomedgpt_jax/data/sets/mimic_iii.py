"""MIMIC-III: death in hospital from what is known at admission, and impressions of radiology reports.

The seeds publish neither task's files. Notes at admission are made as C. van Aken and others describe (EACL 2021): the
sections of a discharge summary that are written before the stay. Both tasks, and MIMIC-III's patients in general, are
split by the same hash of the patient.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from biomedgpt_jax.data.comma_separated import csv_rows, plain_or_gzip
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row
from biomedgpt_jax.data.sets import physionet
from biomedgpt_jax.data.sets.wording import closed, summary_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw
from biomedgpt_jax.data.splits import split_rows

ADMISSIONS, NOTES = "ADMISSIONS.csv", "NOTEEVENTS.csv"
COLUMNS = ("ROW_ID", "SUBJECT_ID", "HADM_ID", "CATEGORY", "DESCRIPTION", "ISERROR", "TEXT")
AT_ADMISSION = (
    "Chief Complaint", "History of Present Illness", "Present Illness", "Past Medical History", "Medical History",
    "Medications on Admission", "Admission Medications", "Allergies", "Physical Examination", "Physical Exam",
    "Family History", "Social History",
)  # fmt: skip
# Whatever follows such a line was known only later.
AFTERWARDS = (
    r"[^:\n]*\b(?:course|discharge|disposition|condition|results?|studies|labs?|laboratory|procedures?|follow[- ]?up|"
    r"instructions|diagnos[ei]s|death|expired|addendum|attending|service|date of birth|sex)\b[^:\n]*:"
)
QUESTION = "Will the patient die during this stay in hospital?"
ANSWERS = {"0": "no", "1": "yes"}
# Any other heading of a radiology report: capitals at the beginning of a line.
OTHER_HEADING = r"(?-i:[A-Z][A-Z ,/&()-]{3,}):"

Note = dict[str, str]


def read_mortality(folder: Path) -> Raw:
    """One row per stay that has a discharge summary; newborns are left out."""
    stays, notes = plain_or_gzip(folder, ADMISSIONS), plain_or_gzip(folder, NOTES)
    died: dict[str, str] = {}
    for _, entry in csv_rows(stays, ("HADM_ID", "ADMISSION_TYPE", "HOSPITAL_EXPIRE_FLAG")):
        if not isinstance(entry, BadRow) and entry["ADMISSION_TYPE"] != "NEWBORN":
            died[entry["HADM_ID"]] = entry["HOSPITAL_EXPIRE_FLAG"]

    def rows() -> Iterator[Row | BadRow]:
        seen: set[str] = set()

        def wanted(note: Note) -> bool:
            stay = note["HADM_ID"]
            first = note["CATEGORY"].strip() == "Discharge summary" and stay in died and stay not in seen
            if first:
                seen.add(stay)
            return first

        return rows_of(notes.name, _notes(notes, wanted), lambda row, note: _mortality(notes, row, note, died))

    return Raw(split_rows(rows, _patient), (stays, notes))


def read_summaries(folder: Path) -> Raw:
    """One row per radiology report that has findings and an impression."""
    notes = plain_or_gzip(folder, NOTES)

    def rows() -> Iterator[Row | BadRow]:
        entries = _notes(notes, lambda note: note["CATEGORY"].strip() == "Radiology" and bool(_report(note["TEXT"])))
        return rows_of(notes.name, entries, lambda row, note: _summary(notes, row, note))

    return Raw(split_rows(rows, _patient), (notes,))


def _notes(path: Path, wanted: Callable[[Note], bool]) -> Iterator[tuple[int, Note | BadRow]]:
    """Notes that were not marked as errors."""
    for row, entry in csv_rows(path, COLUMNS):
        if isinstance(entry, BadRow) or (entry["ISERROR"].strip() != "1" and wanted(entry)):
            yield row, entry


def _patient(row: Row) -> str:
    return row.meta["case"]


def _mortality(path: Path, row: int, note: Note, died: dict[str, str]) -> Row:
    stay = note["HADM_ID"]
    if died[stay] not in ANSWERS:
        raise DataError(f"HOSPITAL_EXPIRE_FLAG {died[stay][:10]!r}: expected 0 or 1")
    parts = physionet.sections(note["TEXT"], AT_ADMISSION, AFTERWARDS)
    if not parts:
        raise DataError("the discharge summary has no section that is written at admission")
    context = " ".join(f"{name.capitalize()}: {text}" for name, text in parts.items())
    meta = closed(
        "question", tuple(ANSWERS.values()), question=QUESTION, context=context, case=note["SUBJECT_ID"], stay=stay
    )
    turns = [(f"{context}\n{QUESTION} Answer yes or no.", ANSWERS[died[stay]])]
    return make_row(path.name, row, id=f"mimic_iii_mortality-{stay}", images=[], turns=turns, meta=meta)


def _report(text: str) -> tuple[str, str] | None:
    parts = physionet.sections(text, ("Findings", "Impression"), OTHER_HEADING)
    return (parts["findings"], parts["impression"]) if len(parts) == 2 else None


def _summary(path: Path, row: int, note: Note) -> Row:
    report = _report(note["TEXT"])
    assert report is not None  # only such notes were taken
    facts = {"case": note["SUBJECT_ID"], "examination": note["DESCRIPTION"].strip()}
    id = f"mimic_iii_summaries-{note['ROW_ID']}"
    return summary_row(path.name, row, id, *report, "the findings of this radiology report", **facts)


def _spec(
    name: str, title: str, task: str, protocol: str, member: Member, files: tuple[str, ...], read: Callable
) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task=task,
        protocol=protocol,
        modality="text (clinical notes)",
        source="https://physionet.org/content/mimiciii/1.4/",
        licence=physionet.LICENCE,
        access=Access.CREDENTIALED,
        citation=(
            "A. E. W. Johnson et al. MIMIC-III, a freely accessible critical care database. "
            "Scientific Data 3, 160035 (2016)."
        ),
        published={},
        read=read,
        download=None,
        splits="ours, by patient",
        member=member,
        steps=physionet.steps("mimiciii", "1.4", [f"{file}.gz" for file in files]),
    )


SPECS = (
    _spec(
        "mimic_iii_mortality",
        "MIMIC-III, death in hospital from the note at admission",
        "text understanding (mortality)",
        "classify/v1",
        Member.LIKELY,
        (ADMISSIONS, NOTES),
        read_mortality,
    ),
    _spec(
        "mimic_iii_summaries",
        "MIMIC-III, impressions from the findings of radiology reports",
        "summarisation",
        "summary/v1",
        Member.CONFIRMED,
        (NOTES,),
        read_summaries,
    ),
)
