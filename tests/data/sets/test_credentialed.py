"""Sets that only their provider may pass on: local folders in its layout, and what is said when there is none."""

import gzip
import json

import pytest

from biomedgpt_jax.data.datasets import ALL, DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.spec import Access
from tests.command import biomedgpt, config
from tests.data.sets.raw import comma_separated, picture, prepare, write

CREDENTIALED = [spec.name for spec in ALL if spec.access is Access.CREDENTIALED]


def test_these_are_credentialed():
    assert CREDENTIALED == [
        "mimic_cxr", "mimic_cxr_summaries", "mednli", "mimic_iii_mortality", "mimic_iii_summaries", "seer",
    ]  # fmt: skip


def test_without_a_folder_the_steps_are_told(tmp_path):
    called = biomedgpt("prepare", config("data/dataset.py:name=mednli"), f"--out={tmp_path / 'out'}")
    assert called.code == 1
    assert "mednli: no folder of its files was given" in called.err
    assert "1. Make an account at https://physionet.org" in called.err
    assert "https://physionet.org/files/mednli/1.0.0/mli_dev_v1.jsonl" in called.err
    assert "Call again with the folder as the source: --config.source=FOLDER" in called.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", CREDENTIALED)
def test_a_folder_without_the_files_gets_the_steps_too(name, tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=r"(?s)raw.*\n  1\. .*Call again with the folder"):
        prepare_dataset(DATASETS[name], tmp_path / "out", source_dir=tmp_path / "raw")
    assert not list((tmp_path / "raw").iterdir())


def test_nothing_is_written_elsewhere(tmp_path):
    raw = mednli(tmp_path / "raw")
    before = sorted(path.name for path in raw.rglob("*"))
    with pytest.raises(DataError, match="is credentialed: it, and what is made of it, stays"):
        prepare_dataset(DATASETS["mednli"], "gs://bucket/mednli", source_dir=raw)
    prepare("mednli", raw, tmp_path / "out")
    assert sorted(path.name for path in raw.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def mednli(folder):
    labels = ("entailment", "neutral", "contradiction")
    lines = [
        {"sentence1": f"Patient {n}  has fever.", "sentence2": "He is ill.", "pairID": f"id-{n}",
         "gold_label": labels[n % 3], "sentence1_parse": "(ROOT)", "sentence1_binary_parse": "( )"}
        for n in range(4)
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, [*lines, {**lines[0], "gold_label": "-"}]))
    return write(folder, {f"mednli-1.0.0/mli_{part}_v1.jsonl": text for part in ("train", "dev", "test")})


def test_mednli(tmp_path):
    found = prepare("mednli", mednli(tmp_path / "raw"), tmp_path / "out")
    answers = {sample.id: sample.turns[0].answer for sample in found.splits["validation"]}
    assert answers == {
        "mednli-dev-id-0": "yes", "mednli-dev-id-1": "maybe", "mednli-dev-id-2": "no", "mednli-dev-id-3": "yes",
    }  # fmt: skip
    assert found.by_id["mednli-dev-id-1"].meta["texts"] == ["Patient 1 has fever.", "He is ill."]
    assert found.by_id["mednli-dev-id-1"].meta["task"] == "nli"
    assert found.skipped == ["gold_label '-': expected one of entailment, neutral, contradiction"] * 3


DISCHARGE = """Admission Date:  [**2101-1-1**]       Discharge Date:   [**2101-1-9**]

Date of Birth:  [**2040-1-1**]             Sex:   M

Chief Complaint:
chest pain

Major Surgical or Invasive Procedure:
none

History of Present Illness:
A {age} year old man.
He fell.

Physical Exam:
VS: stable
Neuro: awake

Pertinent Results:
Lactate 9

Brief Hospital Course:
He died.

Medications on Admission:
aspirin

Discharge Disposition:
Expired
"""
RADIOLOGY = """[**2101-1-1**] 2:00 PM
 CHEST (PORTABLE AP)                  Clip # [**1**]
 ______________________________________________________________________________
                                 FINAL REPORT
 INDICATION:  Fever of patient {age}.

 FINDINGS:  The lungs are clear: no
 effusion.

 IMPRESSION:
 Normal {age}.
"""
NOTE = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "STORETIME", "CATEGORY", "DESCRIPTION", "CGID",
        "ISERROR", "TEXT"]  # fmt: skip


def mimic_iii(folder):
    stays = [[n, n, 1000 + n, "EMERGENCY" if n else "NEWBORN", n % 2] for n in range(20)] + [
        [20, 20, 1020, "URGENT", "?"]
    ]
    notes = []
    for n in range(21):
        report = [n, n, 1000 + n, "2101-01-09", "", "", "Discharge summary", "Report", "", ""]
        film = [100 + n, n, "", "2101-01-01", "", "", "Radiology", "CHEST (PORTABLE AP)", "", ""]
        notes += [[*report, DISCHARGE.format(age=50 + n)], [*film, RADIOLOGY.format(age=50 + n)]]
    notes += [
        [200, 1, 1001, "", "", "", "Discharge summary", "Addendum", "", "", "Chief Complaint: a second one"],
        [201, 1, 1001, "", "", "", "Radiology", "CT", "", "1", RADIOLOGY.format(age=1)],
        [202, 1, 1001, "", "", "", "Nursing", "Report", "", "", "FINDINGS: none\nIMPRESSION: none"],
        [203, "", "", "", "", "", "Radiology", "CT", "", "", "IMPRESSION: no findings were written"],
        [204, 1],
    ]
    names = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "ADMISSION_TYPE", "HOSPITAL_EXPIRE_FLAG"]
    return write(
        folder,
        {
            "1.4/ADMISSIONS.csv.gz": gzip.compress(comma_separated(names, stays).encode()),
            "1.4/NOTEEVENTS.csv.gz": gzip.compress(comma_separated(NOTE, notes).encode()),
        },
    )


def test_mimic_iii_mortality(tmp_path):
    found = prepare("mimic_iii_mortality", mimic_iii(tmp_path / "raw"), tmp_path / "out")
    assert len(found.by_id) == 19  # neither the newborn nor the broken flag
    sample = found.by_id["mimic_iii_mortality-1007"]
    assert sample.turns[0].answer == "yes"
    assert found.by_id["mimic_iii_mortality-1008"].turns[0].answer == "no"
    assert sample.meta["context"] == (
        "Chief complaint: chest pain History of present illness: A 57 year old man. He fell. "
        "Physical exam: VS: stable Neuro: awake Medications on admission: aspirin"
    )
    assert sample.meta["case"] == "7"
    assert sorted(found.skipped) == [
        "HOSPITAL_EXPIRE_FLAG '?': expected 0 or 1",
        "expected 11 comma-separated columns, found 2",
    ]


def test_mimic_iii_summaries_in_the_same_splits(tmp_path):
    raw = mimic_iii(tmp_path / "raw")
    found = prepare("mimic_iii_summaries", raw, tmp_path / "out")
    assert len(found.by_id) == 21
    sample = found.by_id["mimic_iii_summaries-107"]
    assert (sample.meta["document"], sample.turns[0].answer) == ("The lungs are clear: no effusion.", "Normal 57.")
    other = prepare("mimic_iii_mortality", raw, tmp_path / "other")
    assert not found.cases("train") & other.cases("test")
    assert found.cases("test") >= other.cases("test") != set()


def mimic_cxr(folder):
    lines, files = [], {}
    for n, split in enumerate(("train", "train", "train", "validate", "test")):
        patient, study = f"1000000{n}", f"5000000{n}"
        place = f"p10/p{patient}/s{study}"
        lines += [[f"dicom-{n}-{view}", study, patient, split] for view in (1, 2)]
        text = RADIOLOGY.format(age=n) if n != 1 else " FINAL REPORT\n IMPRESSION: Normal."
        files[f"mimic-cxr-reports/files/{place}.txt"] = text
        files |= {f"mimic-cxr-jpg/files/{place}/dicom-{n}-{view}.jpg": picture(2 * n + view, "JPEG") for view in (1, 2)}
    lines += [["dicom-lost", "50000000", "10000000", "train"], ["dicom", "../../x", "10000000", "test"], ["short"]]
    names = ["dicom_id", "study_id", "subject_id", "split"]
    files["mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz"] = gzip.compress(comma_separated(names, lines).encode())
    return write(folder, files)


def test_mimic_cxr(tmp_path):
    raw = mimic_cxr(tmp_path / "raw")
    found = prepare("mimic_cxr", raw, tmp_path / "out")
    assert {split: len(samples) for split, samples in found.splits.items()} == {"train": 4, "validation": 2, "test": 2}
    sample = found.by_id["mimic_cxr-dicom-4-2"]
    assert sample.turns[0].answer == "The lungs are clear: no effusion."
    assert (sample.meta["case"], sample.meta["study"], len(sample.images)) == ("10000004", "50000004", 1)
    assert sorted(found.skipped) == [
        "expected 4 comma-separated columns, found 1",
        "p10/p10000000/s50000000/dicom-lost.jpg: image file not found",
    ]
    summaries = prepare("mimic_cxr_summaries", raw, tmp_path / "summaries")
    assert {split: len(samples) for split, samples in summaries.splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    assert summaries.by_id["mimic_cxr_summaries-50000003"].turns[0].answer == "Normal 3."


def test_seer(tmp_path):
    names = ["Patient ID", "Sex", "Primary Site - labeled", "Survival months", "RX Summ--Surg Prim Site (1998+)",
             "Radiation recode", "Chemotherapy recode (yes, no/unk)"]  # fmt: skip
    rows = [[n, "Male", "C34.1-Upper lobe, lung", 9, "00", "Beam radiation", "No/Unknown"] for n in range(20)]
    rows += [
        [1, "Female", "C50.4", 1, "22", "None/Unknown", "Yes"],
        [2, "Female", "C50.4", 1, "00", "None/Unknown", ""],
    ]
    found = prepare(
        "seer", write(tmp_path / "raw", {"export.csv": comma_separated(names, [*rows, [1]])}), tmp_path / "o"
    )
    assert found.by_id["seer-export-1"].turns[0].answer == "radiation"
    assert found.by_id["seer-export-21"].turns[0].answer == "surgery and chemotherapy"
    assert found.by_id["seer-export-22"].turns[0].answer == "none of these"
    context = found.by_id["seer-export-1"].meta["context"]
    assert context == "Sex: Male; Primary Site - labeled: C34.1-Upper lobe, lung"
    assert found.skipped == ["expected 7 comma-separated columns, found 1"]
