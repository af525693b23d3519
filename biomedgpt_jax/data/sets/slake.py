"""SLAKE: questions in English and Chinese about CT, MRI and X-ray images."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.download import fetch_hub
from biomedgpt_jax.data.layouts import raw_named
from biomedgpt_jax.data.readers import ImageFinder, images_beside, json_rows, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, make_row, spaces
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, Report

REPO = "BoKelvin/SLAKE"
FILES = {"train": "train.json", "validation": "validation.json", "test": "test.json"}


def fetch(folder: Path, report: Report) -> None:
    fetch_hub(REPO, [*FILES.values(), "imgs.zip"], folder)


def read(language: str) -> Callable[[Path], Raw]:
    """The questions of one language, "en" or "zh". Images from `imgs/` or `imgs.zip`."""

    def read_folder(folder: Path) -> Raw:
        find = images_beside(folder / "imgs", folder / "imgs", "imgs.zip", depth=2)
        return raw_named(folder, FILES, lambda path: _rows(path, language, find))

    return read_folder


def _rows(path: Path, language: str, find: ImageFinder) -> Iterator[Row | BadRow]:
    asked = ((row, entry) for row, entry in json_rows(path) if _language(entry) in (None, language))
    return rows_of(path.name, asked, lambda row, entry: _row(path, row, entry, find))


def _language(entry: Any) -> str | None:
    """None for a broken row, which is then reported as such."""
    return entry.get("q_lang") if isinstance(entry, dict) else None


def _row(path: Path, row: int, entry: dict[str, Any], find: ImageFinder) -> Row:
    meta = {
        "answer_type": spaces(entry["answer_type"]).lower(),
        "question_type": spaces(entry["content_type"]),
        "image_name": entry["img_name"],
        "task": "vqa",
        "modality": entry.get("modality"),
        "organ": entry.get("location"),
    }
    turns = [(spaces(entry["question"]), spaces(str(entry["answer"])))]
    id = f"slake-{path.stem}-{entry['qid']}"
    return make_row(path.name, row, id=id, images=[find(entry["img_name"])], turns=turns, meta=meta)


SLAKE = DatasetSpec(
    name="slake",
    title="SLAKE, English questions",
    task="VQA",
    protocol="strict/v1",
    modality="radiology",
    source=f"https://huggingface.co/datasets/{REPO}",
    licence="CC-BY-4.0",
    access=Access.OPEN,
    citation=(
        "B. Liu, L.-M. Zhan, L. Xu, L. Ma, Y. Yang, X.-M. Wu. SLAKE: a semantically-labeled knowledge-enhanced "
        "dataset for medical visual question answering. ISBI 2021."
    ),
    published={"train": 4919, "validation": 1053, "test": 1061},
    read=read("en"),
    download=fetch,
    member=Member.LIKELY,
)

SLAKE_ZH = replace(
    SLAKE,
    name="slake_zh",
    title="SLAKE, Chinese questions",
    # What both languages have together (9835, 2099, 2094) without the English ones.
    published={"train": 4916, "validation": 1046, "test": 1033},
    read=read("zh"),
    member=Member.NO,
)

SPECS = (SLAKE, SLAKE_ZH)
