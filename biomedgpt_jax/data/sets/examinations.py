"""Questions of medical examinations with four options: MedQA (United States) and MedMCQA (India)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.download import fetch_hub
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.layouts import raw_named
from biomedgpt_jax.data.readers import json_rows, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces
from biomedgpt_jax.data.sets.wording import LETTERS, closed, lettered
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, RawSplit, Report
from biomedgpt_jax.data.tables import as_text, table_entries, table_splits

MEDQA_REPO = "GBaker/MedQA-USMLE-4-options"
MEDQA_FILES = {"train": "phrases_no_exclude_train.jsonl", "test": "phrases_no_exclude_test.jsonl"}
MEDMCQA_REPO = "openlifescienceai/medmcqa"
MEDMCQA_OPTIONS = ("opa", "opb", "opc", "opd")
MEDMCQA_COLUMNS = ("id", "question", *MEDMCQA_OPTIONS, "cop", "subject_name", "choice_type")


def examined(file: str, row: int, id: str, question: str, options: Mapping[str, str], right: str, **facts: Any) -> Row:
    """A row whose answer is the text of the option `right`."""
    if right not in options:
        raise DataError(f"the right option is {right!r}: expected one of {sorted(options)}")
    return make_row(
        file,
        row,
        id=id,
        images=[],
        turns=[(lettered(question, options), options[right])],
        meta=closed("question", list(options.values()), letter=right, **facts),
    )


def fetch_medqa(folder: Path, report: Report) -> None:
    fetch_hub(MEDQA_REPO, MEDQA_FILES.values(), folder)


def read_medqa(folder: Path) -> Raw:
    return raw_named(folder, MEDQA_FILES, _medqa_rows)


def _medqa_rows(path: Path) -> Iterator[Row | BadRow]:
    return rows_of(path.name, json_rows(path), lambda row, entry: _medqa_row(path, row, entry))


def _medqa_row(path: Path, row: int, entry: dict[str, Any]) -> Row:
    options = {letter: spaces(text) for letter, text in entry["options"].items()}
    right = entry["answer_idx"]
    if options.get(right) != spaces(entry["answer"]):
        raise DataError("the answer is not the option that answer_idx names")
    id = f"medqa-{path.stem.rsplit('_', 1)[-1]}-{row}"
    return examined(path.name, row, id, spaces(entry["question"]), options, right, step=entry.get("meta_info"))


def fetch_medmcqa(folder: Path, report: Report) -> None:
    fetch_hub(MEDMCQA_REPO, ["data/*.parquet"], folder)


def read_medmcqa(folder: Path) -> Raw:
    """Training and validation: the answers of the test split were never published."""
    splits = {name: files for name, files in table_splits(folder).items() if name in ("train", "validation")}
    made = {name: RawSplit(lambda files=files: _medmcqa_rows(files), None) for name, files in splits.items()}
    return Raw(made, tuple(path for files in splits.values() for path in files))


def _medmcqa_rows(files: Sequence[Path]) -> Iterator[Row | BadRow]:
    for path in files:
        entries = table_entries(path, MEDMCQA_COLUMNS)
        yield from rows_of(path.name, entries, lambda row, entry, path=path: _medmcqa_row(path, row, entry))


def _medmcqa_row(path: Path, row: int, entry: dict[str, Any]) -> Row:
    texts = (as_text(entry[name], name) for name in MEDMCQA_OPTIONS)
    options = dict(zip(LETTERS, texts, strict=False))
    right = entry["cop"]
    if right not in range(len(options)):
        raise DataError(f"cop {right!r}: expected the number of an option, 0 to {len(options) - 1}")
    facts = {"subject": entry["subject_name"], "choice_type": entry["choice_type"]}
    question = as_text(entry["question"], "question")
    return examined(path.name, row, f"medmcqa-{entry['id']}", question, options, LETTERS[right], **facts)


MEDQA = DatasetSpec(
    name="medqa",
    title="MedQA (USMLE), four options",
    task="question answering",
    protocol="strict/v1",
    modality="text (examinations)",
    source=f"https://huggingface.co/datasets/{MEDQA_REPO}",
    licence="MIT (code and card; questions from examination preparation)",
    access=Access.OPEN,
    citation=(
        "D. Jin et al. What disease does this patient have? A large-scale open domain question answering dataset from "
        "medical exams. Applied Sciences 11, 6421 (2021)."
    ),
    published={"train": 10178, "test": 1273},
    read=read_medqa,
    download=fetch_medqa,
)

MEDMCQA = DatasetSpec(
    name="medmcqa",
    title="MedMCQA, four options",
    task="question answering",
    protocol="strict/v1",
    modality="text (examinations)",
    source=f"https://huggingface.co/datasets/{MEDMCQA_REPO}",
    licence="Apache-2.0",
    access=Access.OPEN,
    citation=(
        "A. Pal, L. K. Umapathi, M. Sankarasubbu. MedMCQA: a large-scale multi-subject multi-choice dataset for "
        "medical domain question answering. CHIL 2022."
    ),
    published={"train": 182822, "validation": 4183},
    read=read_medmcqa,
    download=fetch_medmcqa,
)

SPECS = (MEDQA, MEDMCQA)
