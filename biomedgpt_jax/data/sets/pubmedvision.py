"""PubMedVision: figures of PubMed Central with questions and answers, for alignment and instruction tuning."""

from dataclasses import replace
from pathlib import Path

from biomedgpt_jax.data.download import fetch_hub
from biomedgpt_jax.data.layouts import raw_named
from biomedgpt_jax.data.readers import images_beside, read_llava
from biomedgpt_jax.data.rows import IMAGE_PLACE, BadRow, Row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, Report

REPO = "FreedomIntelligence/PubMedVision"
FILES = {
    "alignment": "PubMedVision_Alignment_VQA.json",
    "instruct": "PubMedVision_InstructionTuning_VQA.json",
}


def fetch(folder: Path, report: Report) -> None:
    fetch_hub(REPO, [*FILES.values(), "images_*.zip"], folder)


def read(folder: Path) -> Raw:
    """Images from `images/` or, without unpacking, from `images_*.zip`; one <image> is put before per
    image.
    """
    find = images_beside(folder / "images", folder, "images_*.zip", depth=1)
    return raw_named(folder, FILES, lambda path: map(_place_images, read_llava(path, find)))


def _place_images(row: Row | BadRow) -> Row | BadRow:
    if isinstance(row, BadRow) or any(IMAGE_PLACE in question for question, _ in row.turns):
        return row
    (question, answer), *rest = row.turns
    return replace(row, turns=((f"{IMAGE_PLACE}\n" * len(row.images) + question, answer), *rest))


PUBMEDVISION = DatasetSpec(
    name="pubmedvision",
    title="PubMedVision, alignment and instruction tuning",
    task="instruction",
    protocol=None,
    modality="figures of articles",
    source=f"https://huggingface.co/datasets/{REPO}",
    licence="Apache-2.0",
    access=Access.OPEN,
    citation="J. Chen et al. HuatuoGPT-Vision: injecting medical visual knowledge into multimodal LLMs at scale. 2024.",
    # Nine alignment rows lack their files: allow a share of bad rows of 1e-4.
    published={"alignment": 647031, "instruct": 647031},
    read=read,
    download=fetch,
)

SPECS = (PUBMEDVISION,)
