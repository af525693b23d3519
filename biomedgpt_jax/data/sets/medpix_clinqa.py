"""MEDPIX-ClinQA: questions and answers that a language model wrote about the cases of MedPix 2.0."""

from biomedgpt_jax.data.download import fetch_hub
from biomedgpt_jax.data.layouts import table_folder
from biomedgpt_jax.data.spec import Access, DatasetSpec
from biomedgpt_jax.data.tables import Columns

REPO = "adishourya/MEDPIX-ClinQA"
MEDPIX_CLINQA = DatasetSpec(
    name="medpix_clinqa",
    title="MEDPIX-ClinQA, questions about MedPix 2.0 by a language model",
    task="instruction",
    protocol=None,
    modality="radiology",
    source=f"https://huggingface.co/datasets/{REPO}",
    licence="Apache-2.0 (card; pictures: MedPix)",
    access=Access.OPEN,
    citation="adishourya/MEDPIX-ClinQA on the Hugging Face hub; its pictures and cases are those of MedPix 2.0.",
    published={"train": 20500},
    read=table_folder(Columns(image="image_id", meta=("mode", "case_id"))),
    download=lambda folder, report: fetch_hub(REPO, ["data/*.parquet"], folder),
    splits="published (training alone)",
    checked="columns and size from its card; the real files were not seen",
)
SPECS = (MEDPIX_CLINQA,)
