"""VQA-RAD as published on OSF: its own questions, and one that its `image_organ` field answers.

Lau, Gayen, Ben Abacha, Demner-Fushman: A dataset of clinically generated visual questions and answers about
radiology images, Scientific Data 5, 180251 (2018).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.download import fetch_url, unzip
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import find_one, json_rows, rows_of
from biomedgpt_jax.data.rows import BadRow, Row, image_file, make_row, spaces
from biomedgpt_jax.data.spec import Access, DatasetSpec, Member, Raw, RawSplit, Report
from biomedgpt_jax.data.splits import HELD_OUT, group_keys, split_groups
from biomedgpt_jax.data.writer import file_sha256

QUESTIONS = "VQA_RAD Dataset Public.json"
IMAGE_FOLDERS = ("images", "VQA_RAD Image Folder")
ORGAN_QUESTION = "Which part of the body is shown?"
ORGAN_WORDS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
OSF_ZIP = "https://files.osf.io/v1/resources/89kps/providers/osfstorage/?zip="
QUESTIONS_SHA256 = "948b7156059b864cf72344fb10669233526b175c243e5a046d20d4201d297a95"


def fetch(folder: Path, report: Report) -> None:
    """The authors' files from OSF (the archive is made on demand, so its question file is what is
    checked).
    """
    archive = folder / "vqa_rad.zip"
    fetch_url(OSF_ZIP, archive, report)
    unzip(archive, folder / "vqa_rad")
    questions = find_one(folder / "vqa_rad", QUESTIONS)
    found = file_sha256(questions)
    if found != QUESTIONS_SHA256:
        raise DataError(f"{questions}: sha256 {found}, expected {QUESTIONS_SHA256}; remove {folder} and call again")


def read_disjoint(folder: Path) -> Raw:
    """Train, validation and test share no image and no case; each image also asks which part of the body
    it shows.
    """
    return _disjoint(folder, own_questions=True)


def read_body_parts(folder: Path) -> Raw:
    """The body-part questions of `read_disjoint` alone, in the same splits; to give them more weight."""
    return _disjoint(folder, own_questions=False)


def read_official(folder: Path) -> Raw:
    """The authors' split by phrase type. Nearly all its test images also occur in training: see
    `read_disjoint`.

    Left out, as in the copy on the Hugging Face hub: repeated (image, question, answer) triples within a
    split, and training triples that also stand in the test split. The body-part question is not asked: images
    straddle the split.
    """
    path, entries = _load(folder)
    images = _image_folder(path)
    parts = {"train": [], "test": []}
    for row, entry in entries:
        parts["test" if str(entry["phrase_type"]).startswith("test") else "train"].append((row, entry))
    test = {_triple(entry) for _, entry in parts["test"]}

    def rows(split: str) -> Iterator[Row | BadRow]:
        seen = set(test) if split == "train" else set()
        kept = []
        for row, entry in parts[split]:
            if _triple(entry) not in seen:
                kept.append((row, entry))
            seen.add(_triple(entry))
        yield from rows_of(path.name, kept, lambda row, entry: _question(path.name, row, entry, images))

    return _raw(path, ("train", "test"), rows)


def _disjoint(folder: Path, *, own_questions: bool) -> Raw:
    path, entries = _load(folder)
    images = _image_folder(path)
    links = [(entry["image_name"], entry["image_case_url"]) for _, entry in entries]
    # By hash of the least image name of a group of images that share a case.
    split_of = split_groups(group_keys(links), HELD_OUT, rest="train")

    def rows(split: str) -> Iterator[Row | BadRow]:
        mine = [(row, entry) for row, entry in entries if split_of[entry["image_name"]] == split]
        if own_questions:
            yield from rows_of(path.name, mine, lambda row, entry: _question(path.name, row, entry, images))
        first = {entry["image_name"]: (row, entry) for row, entry in reversed(mine)}
        yield from rows_of(path.name, first.values(), lambda row, entry: _organ(path.name, row, entry, images))

    return _raw(path, ("train", "validation", "test"), rows)


def _load(folder: Path) -> tuple[Path, list[tuple[int, dict[str, Any]]]]:
    path = find_one(folder, QUESTIONS)
    entries = list(json_rows(path))
    for row, entry in entries:
        missing = {"image_name", "image_case_url", "image_organ", "phrase_type"} - set(entry)
        if missing:
            raise DataError(
                f"{path} row {row}: no field {sorted(missing)}; this is not the VQA-RAD file of the authors"
            )
    return path, entries


def _image_folder(questions: Path) -> Path:
    for name in IMAGE_FOLDERS:
        if (questions.parent / name).is_dir():
            return questions.parent / name
    raise DataError(f"{questions.parent}: expected a folder of images called {' or '.join(map(repr, IMAGE_FOLDERS))}")


def _raw(path: Path, splits: Iterable[str], rows: Any) -> Raw:
    counted = {split: sum(1 for _ in rows(split)) for split in splits}
    return Raw({split: RawSplit(lambda s=split: rows(s), counted[split]) for split in counted}, (path,))


def _triple(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["image_name"], spaces(str(entry["question"])), spaces(str(entry["answer"]))


def _question(file: str, row: int, entry: dict[str, Any], images: Path) -> Row:
    name = entry["image_name"]
    meta = {
        "answer_type": spaces(str(entry["answer_type"])).lower(),
        "question_type": spaces(str(entry["question_type"])),
        "image_name": name,
        "task": "vqa",
        "phrase_type": entry["phrase_type"],
        "organ": ORGAN_WORDS.get(entry["image_organ"], entry["image_organ"]),
    }
    turns = [(spaces(str(entry["question"])), spaces(str(entry["answer"])))]
    image = image_file(images, name)
    return make_row(file, row, id=f"vqa_rad-{entry['qid']}", images=[image], turns=turns, meta=meta)


def _organ(file: str, row: int, entry: dict[str, Any], images: Path) -> Row:
    name = entry["image_name"]
    if entry["image_organ"] not in ORGAN_WORDS:
        raise DataError(f"image_organ {entry['image_organ']!r}: expected one of {sorted(ORGAN_WORDS)}")
    meta = {
        "answer_type": "closed",
        "question_type": "ORGAN",
        "image_name": name,
        "task": "organ",
        "choices": list(ORGAN_WORDS.values()),
        "organ": ORGAN_WORDS[entry["image_organ"]],
    }
    turns = [(ORGAN_QUESTION, ORGAN_WORDS[entry["image_organ"]])]
    image = image_file(images, name)
    return make_row(file, row, id=f"vqa_rad-organ-{Path(name).stem}", images=[image], turns=turns, meta=meta)


VQA_RAD = DatasetSpec(
    name="vqa_rad",
    title="VQA-RAD, split by image and case, with a body-part question for each image",
    task="VQA",
    protocol="strict/v1",
    modality="radiology",
    source="https://osf.io/89kps",
    licence="CC0-1.0",
    access=Access.OPEN,
    citation=(
        "J. J. Lau, S. Gayen, A. Ben Abacha, D. Demner-Fushman. A dataset of clinically generated visual "
        "questions and answers about radiology images. Scientific Data 5, 180251 (2018)."
    ),
    # Own questions and body-part questions: 1554 + 213, 238 + 34, 456 + 67.
    published={"train": 1767, "validation": 272, "test": 523},
    read=read_disjoint,
    download=fetch,
    splits="ours, by image and case",
    checked="the real files, whole",
)

VQA_RAD_BODY_PARTS = replace(
    VQA_RAD,
    name="vqa_rad_body_parts",
    title="The body-part questions of VQA-RAD alone, in the same splits",
    published={"train": 213, "validation": 34, "test": 67},
    read=read_body_parts,
)

VQA_RAD_OFFICIAL = replace(
    VQA_RAD,
    name="vqa_rad_official",
    title="VQA-RAD, the authors' split (its test images also occur in training)",
    published={"train": 1793, "test": 451},
    read=read_official,
    splits="published",
    member=Member.LIKELY,
)

SPECS = (VQA_RAD, VQA_RAD_BODY_PARTS, VQA_RAD_OFFICIAL)
