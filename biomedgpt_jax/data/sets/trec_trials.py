"""TREC 2022 clinical trials: is a patient eligible for a trial, excluded from it, or is it of no relevance?"""

import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from biomedgpt_jax.data.download import fetch_url
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import find_one, numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces
from biomedgpt_jax.data.sets.wording import choose, closed
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, Report
from biomedgpt_jax.data.splits import split_rows

TOPICS, JUDGED = "topics2022.xml", "qrels2022.txt"
PARTS = tuple(f"ClinicalTrials.2021-04-27.part{number}.zip" for number in range(1, 6))
CLASSES = {"0": "not relevant", "1": "excluded", "2": "eligible"}
# Trial -> its archive and the name inside.
Trials = Mapping[str, tuple[zipfile.ZipFile, str]]
QUESTION = "Is the patient eligible for the trial?"


def fetch(folder: Path, report: Report) -> None:
    """About 1.5 GB of trials, which stay packed."""
    fetch_url(f"https://www.trec-cds.org/{TOPICS}", folder / TOPICS, report)
    fetch_url(f"https://trec.nist.gov/data/trials/{JUDGED}", folder / JUDGED, report)
    for part in PARTS:
        fetch_url(f"https://www.trec-cds.org/2021_data/{part}", folder / part, report)


def read(folder: Path) -> Raw:
    """Topics, judgements, and the archives of trials (one XML file per trial), which are read without unpacking."""
    topics, judged = find_one(folder, TOPICS), find_one(folder, JUDGED)
    archives = sorted(folder.rglob("ClinicalTrials*.zip"))
    if not archives:
        raise DataError(f"{folder}: no archive of trials ClinicalTrials*.zip there or below")
    notes = _notes(topics)

    def rows() -> Iterator[Row | BadRow]:
        with ExitStack() as opened:
            trials = _trials([_open(archive, opened) for archive in archives])
            yield from rows_of(
                judged.name, numbered_lines(judged), lambda row, line: _row(judged, row, line, notes, trials)
            )

    return Raw(split_rows(rows, lambda row: row.meta["case"]), (topics, judged, *archives))


def judged_row(file: str, row: int, id: str, note: str, criteria: str, judgement: str, **facts: Any) -> Row:
    """A patient's note, the criteria of a trial, and a key of CLASSES."""
    classes = tuple(CLASSES.values())
    asked = f"Patient: {note}\nTrial: {criteria}\n{choose(QUESTION, classes)}"
    meta = closed("trial", classes, texts=[note, criteria], **facts)
    return make_row(file, row, id=id, images=[], turns=[(asked, CLASSES[judgement])], meta=meta)


def _notes(path: Path) -> dict[str, str]:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as reason:
        raise DataError(f"{path}: not XML ({reason}); get it again") from reason
    return {topic.get("number", ""): spaces(topic.text or "") for topic in root.iter("topic")}


def _open(archive: Path, opened: ExitStack) -> zipfile.ZipFile:
    try:
        return opened.enter_context(zipfile.ZipFile(archive))
    except zipfile.BadZipFile as reason:
        raise DataError(f"{archive}: not a whole zip archive ({reason}); get it again") from reason


def _trials(archives: list[zipfile.ZipFile]) -> Trials:
    return {
        PurePosixPath(name).stem: (archive, name)
        for archive in archives
        for name in archive.namelist()
        if name.endswith(".xml")
    }


def _row(path: Path, row: int, line: str, notes: Mapping[str, str], trials: Trials) -> Row:
    cells = line.split()
    if len(cells) != 4:
        raise DataError(f"expected 4 columns (topic, 0, trial, judgement), found {len(cells)}")
    topic, _, trial, judgement = cells
    if judgement not in CLASSES or topic not in notes or trial not in trials:
        raise DataError(f"topic {topic!r}, trial {trial!r}, judgement {judgement!r}: one of them is not known")
    note, criteria = notes[topic], _criteria(*trials[trial])
    if not (note and criteria):
        raise DataError(f"topic {topic!r} or trial {trial!r} has no text")
    id = f"trec_trials_2022-{topic}-{trial}"
    return judged_row(path.name, row, id, note, criteria, judgement, case=f"topic-{topic}", trial=trial)


def _criteria(archive: zipfile.ZipFile, name: str) -> str:
    """The title of a trial and whom it takes."""
    try:
        root = ElementTree.fromstring(archive.read(name))
    except (ElementTree.ParseError, zipfile.BadZipFile) as reason:
        raise DataError(f"{name}: not readable XML ({reason})") from reason
    return spaces(f"{root.findtext('brief_title', '')}. {root.findtext('eligibility/criteria/textblock', '')}")


TREC_TRIALS = DatasetSpec(
    name="trec_trials_2022",
    title="TREC 2022 clinical trials, three judgements",
    task="text understanding (trial matching)",
    protocol="classify/v1",
    modality="text (patient notes, trials)",
    source="https://www.trec-cds.org/2022.html",
    licence="terms of TREC (research)",
    access=Access.OPEN,
    citation="K. Roberts et al. Overview of the TREC 2022 clinical trials track. TREC 2022.",
    published={},
    total=35394,
    read=read,
    download=fetch,
    splits="ours, by patient (topic)",
    member=Member.LIKELY,
)

SPECS = (TREC_TRIALS,)
