"""Reading and fetching of the public sets whose layout is their own: SLAKE, PathVQA, PubMedVision,
LLaVA-Med.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.download import fetch_hub, fetch_pmc_figures, fetch_url, unzip
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import ImageFinder, files_in, find_one, json_rows, read_llava, rows_of, zips_in
from biomedgpt_jax.data.rows import IMAGE_PLACE, BadRow, Row, make_row, spaces
from biomedgpt_jax.data.spec import Raw, RawSplit, Report
from biomedgpt_jax.data.tables import Columns, read_tables, table_splits
from biomedgpt_jax.data.writer import file_sha256

OSF_ZIP = "https://files.osf.io/v1/resources/89kps/providers/osfstorage/?zip="
VQA_RAD_SHA256 = "948b7156059b864cf72344fb10669233526b175c243e5a046d20d4201d297a95"
SLAKE_REPO = "BoKelvin/SLAKE"
SLAKE_FILES = {"train": "train.json", "validation": "validation.json", "test": "test.json"}
PATH_VQA_REPO = "flaviagiammarino/path-vqa"
PUBMEDVISION_REPO = "FreedomIntelligence/PubMedVision"
PUBMEDVISION_FILES = {
    "alignment": "PubMedVision_Alignment_VQA.json",
    "instruct": "PubMedVision_InstructionTuning_VQA.json",
}
LLAVA_MED = "https://hanoverprod.z21.web.core.windows.net/med_llava"
LLAVA_MED_LISTING = "llava_med_image_urls.jsonl"


def fetch_vqa_rad(folder: Path, report: Report) -> None:
    """The authors' files from OSF (the archive is made on demand, so its question file is what is
    checked).
    """
    archive = folder / "vqa_rad.zip"
    fetch_url(OSF_ZIP, archive, report)
    unzip(archive, folder / "vqa_rad")
    questions = find_one(folder / "vqa_rad", "VQA_RAD Dataset Public.json")
    found = file_sha256(questions)
    if found != VQA_RAD_SHA256:
        raise DataError(f"{questions}: sha256 {found}, expected {VQA_RAD_SHA256}; remove {folder} and call again")


def fetch_slake(folder: Path, report: Report) -> None:
    fetch_hub(SLAKE_REPO, [*SLAKE_FILES.values(), "imgs.zip"], folder)


def read_slake(folder: Path) -> Raw:
    """The English questions. Images from `imgs/` or `imgs.zip`."""
    find = _images(folder / "imgs", folder / "imgs", "imgs.zip", depth=2)
    return _json_splits(folder, SLAKE_FILES, lambda path: _slake_rows(path, find))


def _slake_rows(path: Path, find: ImageFinder) -> Iterator[Row | BadRow]:
    english = ((row, entry) for row, entry in json_rows(path) if _language(entry) in (None, "en"))
    return rows_of(path.name, english, lambda row, entry: _slake_row(path, row, entry, find))


def _language(entry: Any) -> str | None:
    """None for a broken row, which is then reported as such."""
    return entry.get("q_lang") if isinstance(entry, dict) else None


def _slake_row(path: Path, row: int, entry: dict[str, Any], find: ImageFinder) -> Row:
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


def fetch_path_vqa(folder: Path, report: Report) -> None:
    fetch_hub(PATH_VQA_REPO, ["data/*.parquet"], folder)


def read_path_vqa(folder: Path) -> Raw:
    """Yes/no answers are closed, all others open. An image is shared by its questions and stored once."""
    splits = table_splits(folder)
    find = files_in(folder)

    def rows(name: str) -> Iterator[Row | BadRow]:
        for number, row in enumerate(read_tables(splits[name], Columns(), find), 1):
            yield row if isinstance(row, BadRow) else _path_vqa_row(row, name, number)

    made = {name: RawSplit(lambda name=name: rows(name), None) for name in splits}
    return Raw(made, tuple(path for files in splits.values() for path in files))


def _path_vqa_row(row: Row, split: str, number: int) -> Row:
    (question, answer), *_ = row.turns
    meta = {
        "answer_type": "closed" if answer.lower() in ("yes", "no") else "open",
        "question_type": question.split()[0].lower(),
        "task": "vqa",
    }
    return replace(row, id=f"path_vqa-{split}-{number}", meta=meta)


def fetch_pubmedvision(folder: Path, report: Report) -> None:
    fetch_hub(PUBMEDVISION_REPO, [*PUBMEDVISION_FILES.values(), "images_*.zip"], folder)


def read_pubmedvision(folder: Path) -> Raw:
    """Images from `images/` or, without unpacking, from `images_*.zip`; one <image> is put before per
    image.
    """
    find = _images(folder / "images", folder, "images_*.zip", depth=1)
    return _json_splits(folder, PUBMEDVISION_FILES, lambda path: map(_place_images, read_llava(path, find)))


def _place_images(row: Row | BadRow) -> Row | BadRow:
    if isinstance(row, BadRow) or any(IMAGE_PLACE in question for question, _ in row.turns):
        return row
    (question, answer), *rest = row.turns
    return replace(row, turns=((f"{IMAGE_PLACE}\n" * len(row.images) + question, answer), *rest))


def fetch_llava_med(address: str) -> Callable[[Path, Report], None]:
    """`address`: the JSON file below LLAVA_MED. Its figures come from PubMed Central, article by article
    (slow).
    """

    def fetch(folder: Path, report: Report) -> None:
        rows = folder / Path(address).name
        fetch_url(f"{LLAVA_MED}/{address}", rows, report)
        fetch_url(f"{LLAVA_MED}/{LLAVA_MED_LISTING}", folder / LLAVA_MED_LISTING, report)
        named = (entry.get("image") for _, entry in json_rows(rows) if isinstance(entry, dict))
        wanted = {Path(name).stem for name in named if isinstance(name, str)}
        fetch_pmc_figures(folder / LLAVA_MED_LISTING, wanted, folder / "images", report)

    return fetch


def read_llava_med(address: str) -> Callable[[Path], Raw]:
    """One split, train. Images lie in `images/`."""

    def read(folder: Path) -> Raw:
        find = files_in(folder / "images")
        return _json_splits(folder, {"train": Path(address).name}, lambda path: read_llava(path, find))

    return read


def _json_splits(folder: Path, files: dict[str, str], rows: Callable[[Path], Any]) -> Raw:
    paths = {split: find_one(folder, name) for split, name in files.items()}
    splits = {split: RawSplit(lambda path=path: rows(path), None) for split, path in paths.items()}
    return Raw(splits, tuple(paths.values()))


def _images(unpacked: Path, root: Path, archives: str, depth: int) -> ImageFinder:
    """Images relative to `root` where the folder `unpacked` exists, else in the archives beside it."""
    if unpacked.is_dir():
        return files_in(root)
    found = sorted(unpacked.parent.glob(archives))
    if not found:
        raise DataError(f"{unpacked.parent}: neither a folder {unpacked.name!r} nor {archives}")
    return zips_in(found, depth)
