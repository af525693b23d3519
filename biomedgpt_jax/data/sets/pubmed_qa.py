"""PubMedQA: yes, no or maybe to the question of an abstract; the labelled thousand with the official test ids."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.download import fetch_url
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import find_one, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces
from biomedgpt_jax.data.sets.wording import closed
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, RawSplit, Report

BASE = "https://raw.githubusercontent.com/pubmedqa/pubmedqa/master/data"
QUESTIONS = "ori_pqal.json"
TEST_IDS = "test_ground_truth.json"
CHOICES = ("yes", "no", "maybe")


def fetch(folder: Path, report: Report) -> None:
    for name in (QUESTIONS, TEST_IDS):
        fetch_url(f"{BASE}/{name}", folder / name, report)


def read(folder: Path) -> Raw:
    """Training has what is not in the test set. The test ids may also lie in test.json."""
    path = find_one(folder, QUESTIONS)
    ids = next((path.with_name(name) for name in (TEST_IDS, "test.json") if path.with_name(name).is_file()), None)
    if ids is None:
        raise DataError(f"{path.parent}: no file {TEST_IDS} (or test.json) with the official test ids")
    entries, test = _object(path), _object(ids)
    if unknown := sorted(set(test) - set(entries)):
        raise DataError(f"{ids}: {len(unknown)} test ids are not in {path.name}, the first is {unknown[0]!r}")

    def rows(split: str) -> Iterator[Row | BadRow]:
        numbered = enumerate(entries.items(), 1)
        mine = ((row, entry) for row, entry in numbered if (entry[0] in test) == (split == "test"))
        return rows_of(path.name, mine, lambda row, entry: _row(path.name, row, *entry))

    return Raw({split: RawSplit(lambda s=split: rows(s), None) for split in ("train", "test")}, (path, ids))


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as reason:
        raise DataError(f"{path}: not valid JSON ({reason})") from reason
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object of rows by PubMed id, found {type(found).__name__}")
    return found


def _row(file: str, row: int, id: str, entry: dict[str, Any]) -> Row:
    answer = entry["final_decision"]
    if answer not in CHOICES:
        raise DataError(f"final_decision {answer!r}: expected one of {CHOICES}")
    question, context = spaces(entry["QUESTION"]), spaces(" ".join(entry["CONTEXTS"]))
    meta = closed("question", CHOICES, question=question, context=context, year=entry.get("YEAR"))
    asked = f"{context}\n{question} Answer yes, no or maybe."
    return make_row(file, row, id=f"pubmed_qa-{id}", images=[], turns=[(asked, answer)], meta=meta)


PUBMED_QA = DatasetSpec(
    name="pubmed_qa",
    title="PubMedQA, labelled",
    task="question answering",
    protocol="classify/v1",
    modality="text (abstracts)",
    source="https://github.com/pubmedqa/pubmedqa",
    licence="MIT",
    access=Access.OPEN,
    citation=(
        "Q. Jin, B. Dhingra, Z. Liu, W. Cohen, X. Lu. PubMedQA: a dataset for biomedical research question answering. "
        "EMNLP 2019."
    ),
    published={"train": 500, "test": 500},
    read=read,
    download=fetch,
    splits="published (test); the other 500 are for training and, in the paper, ten folds",
    checked="the real files, whole",
)

SPECS = (PUBMED_QA,)
