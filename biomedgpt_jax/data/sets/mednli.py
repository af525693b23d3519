"""MedNLI: does a sentence of a clinical note entail another, contradict it, or neither?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.layouts import raw_named
from biomedgpt_jax.data.readers import json_rows, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces
from biomedgpt_jax.data.sets import physionet
from biomedgpt_jax.data.sets.wording import choose, closed
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw

FILES = {"train": "mli_train_v1.jsonl", "validation": "mli_dev_v1.jsonl", "test": "mli_test_v1.jsonl"}
# BiomedGPT's words for the labels.
ANSWERS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}


def read(folder: Path) -> Raw:
    return raw_named(folder, FILES, _rows)


def _rows(path: Path) -> Iterator[Row | BadRow]:
    return rows_of(path.name, json_rows(path), lambda row, entry: _row(path, row, entry))


def _row(path: Path, row: int, entry: dict[str, Any]) -> Row:
    label = entry["gold_label"]
    if label not in ANSWERS:
        raise DataError(f"gold_label {str(label)[:20]!r}: expected one of {', '.join(ANSWERS)}")
    first, second = spaces(entry["sentence1"]), spaces(entry["sentence2"])
    if not (first and second):
        raise DataError("an empty sentence")
    choices = tuple(ANSWERS.values())
    asked = f"Text 1: {first}\nText 2: {second}\n{choose('Does text 1 imply text 2?', choices)}"
    id = f"mednli-{path.stem.split('_')[1]}-{entry['pairID']}"
    meta = closed("nli", choices, texts=[first, second], label=label)
    return make_row(path.name, row, id=id, images=[], turns=[(asked, ANSWERS[label])], meta=meta)


MEDNLI = DatasetSpec(
    name="mednli",
    title="MedNLI",
    task="text understanding (inference)",
    protocol="classify/v1",
    modality="text (clinical notes)",
    source="https://physionet.org/content/mednli/1.0.0/",
    licence=physionet.LICENCE,
    access=Access.CREDENTIALED,
    citation="A. Romanov, C. Shivade. Lessons from natural language inference in the clinical domain. EMNLP 2018.",
    published={"train": 11232, "validation": 1395, "test": 1422},
    read=read,
    download=None,
    member=Member.LIKELY,
    steps=physionet.steps("mednli", "1.0.0", FILES.values()),
)

SPECS = (MEDNLI,)
