"""PathVQA: questions about pathology images, as de-duplicated on the Hugging Face hub."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from biomedgpt_jax.data.download import fetch_hub
from biomedgpt_jax.data.readers import files_in
from biomedgpt_jax.data.rows import BadRow, Row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit, Report
from biomedgpt_jax.data.tables import Columns, read_tables, table_splits

REPO = "flaviagiammarino/path-vqa"


def fetch(folder: Path, report: Report) -> None:
    fetch_hub(REPO, ["data/*.parquet"], folder)


def read(folder: Path) -> Raw:
    """Yes/no answers are closed, all others open. An image is shared by its questions and stored once."""
    splits = table_splits(folder)
    find = files_in(folder)

    def rows(name: str) -> Iterator[Row | BadRow]:
        for number, row in enumerate(read_tables(splits[name], Columns(), find), 1):
            yield row if isinstance(row, BadRow) else _row(row, name, number)

    made = {name: RawSplit(lambda name=name: rows(name), None) for name in splits}
    return Raw(made, tuple(path for files in splits.values() for path in files))


def _row(row: Row, split: str, number: int) -> Row:
    (question, answer), *_ = row.turns
    meta = {
        "answer_type": "closed" if answer.lower() in ("yes", "no") else "open",
        "question_type": question.split()[0].lower(),
        "task": "vqa",
    }
    return replace(row, id=f"path_vqa-{split}-{number}", meta=meta)


PATH_VQA = DatasetSpec(
    name="path_vqa",
    title="PathVQA, de-duplicated",
    task="VQA",
    protocol="strict/v1",
    modality="pathology",
    source=f"https://huggingface.co/datasets/{REPO}",
    licence="MIT (card; images from textbooks and the PEIR library)",
    access=Access.OPEN,
    citation="X. He, Y. Zhang, L. Mou, E. Xing, P. Xie. PathVQA: 30000+ questions for medical VQA. 2020.",
    published={"train": 19654, "validation": 6259, "test": 6719},
    read=read,
    download=fetch,
    member=Member.LIKELY,
)

SPECS = (PATH_VQA,)
