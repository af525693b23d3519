"""SEER: which treatment a cancer patient had, from a case listing that SEER*Stat exported.

The task is known by name alone ("treatment suggestion"): which variables the seed uses is not published, so this is our
reading. Every exported variable is told, except the patient's number, the treatment, and what was known only later.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from biomedgpt_jax.data.comma_separated import csv_rows
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces
from biomedgpt_jax.data.sets.wording import choose, closed
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw
from biomedgpt_jax.data.splits import split_rows

PATIENT = "Patient ID"
# Treatment -> the beginning of its variable's name, which ends in years that change, and the values that mean none.
TREATMENTS: Mapping[str, tuple[str, re.Pattern[str]]] = {
    "surgery": ("RX Summ--Surg Prim Site", re.compile(r"0+|none.*|9+|blank.*|unknown.*|", re.IGNORECASE)),
    "radiation": (
        "Radiation recode",
        re.compile(r"none/unknown.*|none|refused.*|recommended, unknown.*|", re.IGNORECASE),
    ),
    "chemotherapy": ("Chemotherapy recode", re.compile(r"no/unknown|no|", re.IGNORECASE)),
}
LATER = re.compile(r"surviv|vital status|cause|\bCOD\b|death|RX Summ|radiation|chemo|surg|treat", re.IGNORECASE)
QUESTION = "Which treatment did the patient have?"


def read(folder: Path) -> Raw:
    """All *.csv files of the folder: case listings with names of variables in the first line."""
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise DataError(f"{folder}: no case listing (*.csv)")

    def rows() -> Iterator[Row | BadRow]:
        for path in paths:
            entries = csv_rows(path, (PATIENT,))
            yield from rows_of(path.name, entries, lambda row, entry, path=path: _row(path, row, entry))

    return Raw(split_rows(rows, lambda row: row.meta["case"]), tuple(paths))


def _row(path: Path, row: int, entry: dict[str, str]) -> Row:
    had = [name for name, (variable, none) in TREATMENTS.items() if not none.fullmatch(_value(entry, variable))]
    told = {name: spaces(value) for name, value in entry.items() if name != PATIENT and not LATER.search(name)}
    context = "; ".join(f"{name}: {value}" for name, value in told.items() if value)
    if not context:
        raise DataError("no variable besides the treatment")
    choices = tuple(_words(picked) for picked in _combinations())
    meta = closed("question", choices, question=QUESTION, context=context, case=entry[PATIENT])
    turns = [(f"{context}\n{choose(QUESTION, choices)}", _words(had))]
    return make_row(path.name, row, id=f"seer-{path.stem}-{row}", images=[], turns=turns, meta=meta)


def _value(entry: dict[str, str], variable: str) -> str:
    found = [value for name, value in entry.items() if name.startswith(variable)]
    if not found:
        raise DataError(f"no variable {variable!r}...; export it with the case listing")
    return spaces(found[0])


def _combinations() -> list[list[str]]:
    taken = product((False, True), repeat=len(TREATMENTS))
    return [[name for name, had in zip(TREATMENTS, each, strict=True) if had] for each in taken]


def _words(treatments: list[str]) -> str:
    return " and ".join(treatments) or "none of these"


SEER = DatasetSpec(
    name="seer",
    title="SEER, treatment of a case (our reading of the task)",
    task="text understanding (treatment)",
    protocol="classify/v1",
    modality="text (registry variables)",
    source="https://seer.cancer.gov/data/",
    licence="SEER Research Data Use Agreement",
    access=Access.CREDENTIALED,
    citation="Surveillance, Epidemiology, and End Results Program, National Cancer Institute.",
    published={},
    read=read,
    download=None,
    splits="ours, by patient",
    member=Member.CONFIRMED,
    checked="layout from memory; no export was seen",
    steps=(
        "Ask for access at https://seer.cancer.gov/data/access.html and sign the research data use agreement.",
        "Open SEER*Stat, make a Case Listing session and choose Patient ID, age, sex, site, histology, grade, stage, "
        "'RX Summ--Surg Prim Site (1998+)', 'Radiation recode' and 'Chemotherapy recode (yes, no/unk)'.",
        "Run it and export the result as comma-separated text (*.csv) with labels instead of codes and with the names "
        "of the variables in the first line.",
    ),
)

SPECS = (SEER,)
