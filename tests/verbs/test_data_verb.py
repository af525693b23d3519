"""`biomedgpt data`: the list, one set in full, what is on this machine, and the page in docs/."""

import json

from biomedgpt_jax.data.datasets import DATASETS
from tests.command import ROOT, assert_refused, biomedgpt
from tests.data.sets.raw import prepare, write


def test_the_list_says_what_is_on_this_machine(tmp_path, monkeypatch):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    line = "What  helps?\tWhat are the treatments?"
    raw = write(tmp_path / "raw", {name: line for name in ("train.tsv", "val.tsv", "test.tsv")})
    prepare("meqsum", raw, root / "meqsum")
    write(root, {"icliniq.raw/a.txt": "", "slake.partial/request.json": "", "medqa/manifest.json": "{"})
    write(elsewhere, {"mednli/a.jsonl": ""})
    monkeypatch.setenv("BIOMEDGPT_DATA", str(elsewhere))
    listed = json.loads(biomedgpt("data", f"--root={root}", "--json").out)
    assert [row["name"] for row in listed] == list(DATASETS)
    status = {row["name"]: row["status"] for row in listed}
    assert status["meqsum"] == f"prepared, 3 samples: {root}/meqsum"
    assert status["icliniq"] == f"raw files: {root}/icliniq.raw"
    assert status["slake"] == f"unfinished: {root}/slake.partial"
    assert status["medqa"] == f"damaged: {root}/medqa"
    assert status["mednli"] == f"raw files: {elsewhere}/mednli"
    assert status["roco"] == "not here"
    row = next(row for row in listed if row["name"] == "mednli")
    assert (row["access"], row["samples"]["validation"]) == ("credentialed", 1395)
    table = biomedgpt("data", f"--root={root}", "--task=captioning").out
    assert "peir_gross" in table and "meqsum" not in table


def test_one_set_in_full(tmp_path):
    told = biomedgpt("data", "--name=mimic_iii_mortality", f"--root={tmp_path}").out
    assert "ours, by patient" in told
    assert "1. Make an account at https://physionet.org" in told
    assert "https://physionet.org/files/mimiciii/1.4/ADMISSIONS.csv.gz" in told
    assert "configs/data/dataset.py:name=pathmnist --out=data/pathmnist" in biomedgpt("data", "--name=pathmnist").out


def test_wrong_names_are_refused():
    assert_refused(biomedgpt("data", "--name=slak"), 2, "No data set 'slak'. Did you mean 'slake'?")
    assert_refused(biomedgpt("data", "--task=surgery"), 2, "No data set whose task holds 'surgery'", "captioning")


def test_the_page_in_docs_is_that_of_the_rows():
    page = (ROOT / "docs" / "datasets.md").read_text()
    assert page == biomedgpt("data", "--markdown").out, "run: biomedgpt data --markdown > docs/datasets.md"
    assert all(f"{name}]" in page or f"| {name} |" in page for name in DATASETS)
