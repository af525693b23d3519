"""LLaVA-Med's alignment and instruction data: conversations about figures of PubMed Central."""

from collections.abc import Callable
from pathlib import Path

from biomedgpt_jax.data.download import fetch_pmc_figures, fetch_url
from biomedgpt_jax.data.layouts import raw_named
from biomedgpt_jax.data.readers import files_in, json_rows, read_llava
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, Report

BASE = "https://hanoverprod.z21.web.core.windows.net/med_llava"
LISTING = "llava_med_image_urls.jsonl"


def fetch(address: str) -> Callable[[Path, Report], None]:
    """`address`: the JSON file below BASE. Its figures come from PubMed Central, article by article
    (slow).
    """

    def fetch_folder(folder: Path, report: Report) -> None:
        rows = folder / Path(address).name
        fetch_url(f"{BASE}/{address}", rows, report)
        fetch_url(f"{BASE}/{LISTING}", folder / LISTING, report)
        named = (entry.get("image") for _, entry in json_rows(rows) if isinstance(entry, dict))
        wanted = {Path(name).stem for name in named if isinstance(name, str)}
        fetch_pmc_figures(folder / LISTING, wanted, folder / "images", report)

    return fetch_folder


def read(address: str) -> Callable[[Path], Raw]:
    """One split, train. Images lie in `images/`."""

    def read_folder(folder: Path) -> Raw:
        find = files_in(folder / "images")
        return raw_named(folder, {"train": Path(address).name}, lambda path: read_llava(path, find))

    return read_folder


def _spec(name: str, title: str, address: str) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=f"LLaVA-Med {title}",
        task="instruction",
        protocol=None,
        modality="figures of articles",
        source=f"{BASE}/{address}",
        licence="CC-BY-NC-4.0 (text; figures: the licences of their PubMed Central articles)",
        access=Access.RESEARCH,
        citation=(
            "C. Li et al. LLaVA-Med: training a large language-and-vision assistant for biomedicine in one day. "
            "NeurIPS 2023."
        ),
        published={},
        read=read(address),
        download=fetch(address),
        splits="published (training alone)",
    )


SPECS = (
    _spec("llava_med_alignment", "alignment, 500k", "alignment/llava_med_alignment_500k.json"),
    _spec("llava_med_instruct_10k", "instruct, 10k", "instruct/llava_med_instruct_10k.json"),
    _spec("llava_med_instruct_60k", "instruct, 60k", "instruct/llava_med_instruct_60k.json"),
    _spec(
        "llava_med_instruct_60k_inline",
        "instruct, 60k with inline mentions",
        "instruct/llava_med_instruct_60k_inline_mention.json",
    ),
)
