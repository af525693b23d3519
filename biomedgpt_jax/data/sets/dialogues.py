"""HealthcareMagic and iCliniq: dialogues of patients and doctors, with the patient's one-line question as summary.

Both come as one text of entries: `id=N`, an address, `Description` and its text, `Dialogue` and its turns.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import numbered_lines, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, spaces
from biomedgpt_jax.data.sets.wording import summary_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw
from biomedgpt_jax.data.splits import split_rows

DESCRIPTION, DIALOGUE = "Description", "Dialogue"
DRIVE = "https://drive.google.com/drive/folders/1g29ssimdZ6JzTST6Y8g6h-ogUNReBtJD"


def read(name: str, pattern: str) -> Callable[[Path], Raw]:
    """All files of the pattern, anywhere below the folder."""

    def read_folder(folder: Path) -> Raw:
        paths = sorted(folder.rglob(pattern))
        if not paths:
            listing = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise DataError(f"{folder}: no file {pattern} there or below; the folder holds: {listing}")

        def rows() -> Iterator[Row | BadRow]:
            for path in paths:
                yield from rows_of(
                    path.name, _entries(path), lambda row, entry, path=path: _row(name, path, row, entry)
                )

        return Raw(split_rows(rows, lambda row: row.id), tuple(paths))

    return read_folder


def _entries(path: Path) -> Iterator[tuple[int, list[str] | BadRow]]:
    """(line where it begins, its lines) of each entry."""
    begins, lines = 0, []
    for number, line in numbered_lines(path):
        if isinstance(line, BadRow):
            yield number, line
            continue
        if line.startswith("id=") and line[3:].strip().isdigit():
            if lines:
                yield begins, lines
            begins, lines = number, []
        lines.append(line)
    if lines:
        yield begins or 1, lines


def _row(name: str, path: Path, row: int, lines: list[str]) -> Row:
    heads = [line.strip() for line in lines]
    if not heads[0].startswith("id="):
        raise DataError("expected a line id=N in front")
    if DESCRIPTION not in heads or DIALOGUE not in heads:
        raise DataError(f"expected the lines {DESCRIPTION!r} and {DIALOGUE!r}")
    middle = heads.index(DIALOGUE)
    summary = spaces(" ".join(heads[heads.index(DESCRIPTION) + 1 : middle])).removeprefix("Q.").strip()
    number = heads[0][3:].strip()
    # The numbers begin anew in each file.
    id = f"{name}-{path.stem}-{number}"
    return summary_row(path.name, row, id, spaces(" ".join(heads[middle + 1 :])), summary, "this dialogue")


def _spec(name: str, title: str, pattern: str, **facts: Any) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        task="summarisation",
        protocol="summary/v1",
        modality="text (dialogues)",
        source="https://github.com/UCSD-AI4H/Medical-Dialogue-System",
        licence="not stated (texts: their sites)",
        access=Access.OPEN,
        citation="G. Zeng et al. MedDialog: large-scale medical dialogue datasets. EMNLP 2020.",
        published={},
        read=read(name, pattern),
        download=None,
        splits="ours, by dialogue (BiomedGPT's was drawn without a seed)",
        checked="layout from BiomedGPT's script; the real files were not seen",
        steps=(
            f"Open {DRIVE} (linked from the page of the data set) in a browser.",
            f"Download the files {pattern} of the English dialogues into one folder.",
        ),
        **facts,
    )


SPECS = (
    _spec("healthcaremagic", "HealthcareMagic dialogues", "healthcaremagic_dialogue*.txt", member=Member.LIKELY),
    _spec("icliniq", "iCliniq dialogues", "icliniq_dialogue*.txt", member=Member.UNKNOWN),
)
