"""Classes and captions of pictures: folders of PNG and DICOM files, comma-separated lists, XML reports."""

from collections import Counter

import pytest

from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.lint.material import Material, Part
from biomedgpt_jax.data.lint.privacy import raw_headers
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.sets import roco, tuberculosis
from biomedgpt_jax.data.source import PreparedSplit
from tests.data.server import Files, article, serve, zipped
from tests.data.sets.raw import comma_separated, dicom, picture, prepare, write


def montgomery():
    files = {"MontgomerySet/NLM-MontgomeryCXRSet-ReadMe.pdf": b"%PDF"}
    for number in range(20):
        stem = f"MCUCXR_{number:04d}_{number % 2}"
        files[f"MontgomerySet/CXR_png/{stem}.png"] = picture(number)
        text = f"Patient's Sex: F\nPatient's Age: {number + 20:03d}Y\n{'normal' if number % 2 == 0 else 'TB'}\n"
        files[f"MontgomerySet/ClinicalReadings/{stem}.txt"] = text.encode()
    return files


def test_tuberculosis(tmp_path):
    raw = write(tmp_path / "raw", {**montgomery(), "MontgomerySet/CXR_png/Thumbs.png": picture(1)})
    found = prepare("montgomery", raw, tmp_path / "out")
    assert len(found.by_id) == 20
    ill = found.by_id["montgomery-MCUCXR_0007_1"]
    assert ill.turns[0].answer == "tuberculosis"
    assert (ill.meta["age"], ill.meta["case"]) == (27, "MCUCXR_0007_1")
    assert found.by_id["montgomery-MCUCXR_0008_0"].turns[0].answer == "normal"
    assert found.skipped == ["Thumbs.png: expected a name that ends in _0.png or _1.png"]


def test_shenzhen(tmp_path):
    files = {"ChinaSet_AllFiles/NLM-ChinaCXRSet-ReadMe.docx": b"PK"}
    for number in range(1, 21):
        stem = f"CHNCXR_{number:04d}_{number % 2}"
        files[f"ChinaSet_AllFiles/CXR_png/{stem}.png"] = picture(number)
        text = f"female  {number + 30}yrs \n\nbilateral PTB\n" if number % 2 else "male 45yrs\nnormal"
        files[f"ChinaSet_AllFiles/ClinicalReadings/{stem}.txt"] = text.encode()
    found = prepare("shenzhen", write(tmp_path / "raw", files), tmp_path / "out")
    assert len(found.by_id) == 20 and not found.skipped
    ill = found.by_id["shenzhen-CHNCXR_0007_1"]
    assert (ill.turns[0].answer, ill.meta["age"]) == ("tuberculosis", 37)
    assert ill.meta["reading"] == "female 37yrs bilateral PTB"
    assert not found.cases("train") & found.cases("test")


def test_tuberculosis_from_the_second_mirror_and_too_small(tmp_path, monkeypatch):
    files = Files({"/second/NLM-MontgomeryCXRSet.zip": zipped(montgomery())})
    with serve(files) as address:
        monkeypatch.setattr(tuberculosis, "BASES", (f"{address}/first", f"{address}/second"))
        with pytest.raises(DataError, match="montgomery: all splits together: 20 rows found, 138 published"):
            prepare_dataset(DATASETS["montgomery"], tmp_path / "out")
        asked = [path for method, path, _ in files.asked if method == "GET"]
        assert [path.split("/")[1] for path in asked] == ["first", "second"]
        manifest = prepare_dataset(DATASETS["montgomery"], tmp_path / "out", allow_other_sizes=True)
    assert sum(split.samples for split in manifest.splits.values()) == 20


NAMES = [
    "patient_id", "breast_density", "left or right breast", "image view", "abnormality id", "abnormality type",
    "mass shape", "mass margins", "assessment", "pathology", "subtlety", "image file path", "cropped image file path",
    "ROI mask file path",
]  # fmt: skip
PATHOLOGIES = ("BENIGN", "MALIGNANT", "BENIGN_WITHOUT_CALLBACK")


def cases(part, numbers):
    def row(number, pathology):
        folder = f"Mass-{part}_P_{number:05d}_LEFT_CC"
        crop = f"{folder}_1/1.3.6.{number}/1.3.7.{number}/000000.dcm\n"
        return [f"P_{number:05d}", 3, "LEFT", "CC", 1, "mass", "OVAL", "ILL_DEFINED", 4, pathology, 5,
                f"{folder}/1.2/1.3/000000.dcm", crop, crop.replace("000000", "000001")]  # fmt: skip

    return comma_separated(NAMES, [row(n, PATHOLOGIES[n % 3]) for n in numbers] + [row(99, "UNPROVEN")])


def mammograms(train=range(20), test=(41, 42)):
    return {
        "mass_case_description_train_set.csv": cases("Training", train),
        "mass_case_description_test_set.csv": cases("Test", test),
    }


def test_cbis_ddsm_as_dicom(tmp_path):
    files = mammograms()
    for part, number in [*(("Training", n) for n in range(20)), ("Test", 41)]:
        folder = f"CBIS-DDSM/Mass-{part}_P_{number:05d}_LEFT_CC_1/07-20-2016-DDSM-1/1.0-ROI mask images-2"
        # The cut-out comes second in some studies.
        names = ("1-1.dcm", "1-2.dcm")[:: 1 if number % 2 else -1]
        files |= {f"{folder}/{names[0]}": dicom(number + 100), f"{folder}/{names[1]}": dicom(255, side=16)}
    found = prepare("cbis_ddsm_mass", write(tmp_path / "raw", files), tmp_path / "out")
    one = found.by_id["cbis_mass-P_00004-left-CC-1"]
    assert one.turns[0].answer == "malignant"
    assert one.meta["choices"] == ["benign", "benign without callback", "malignant"]
    assert one.meta["image_name"].endswith("1-2.dcm")
    assert sorted(found.splits) == ["test", "train", "validation"]
    assert [sample.meta["case"] for sample in found.splits["test"]] == ["P_00041"]
    assert not found.cases("train") & found.cases("validation")
    assert sorted(found.skipped) == [
        "Mass-Test_P_00042_LEFT_CC_1: no such folder of DICOM files",
        *["pathology 'UNPROVEN': expected one of BENIGN, BENIGN_WITHOUT_CALLBACK, MALIGNANT"] * 2,
    ]


def test_cbis_ddsm_as_jpeg(tmp_path):
    numbers = [*range(20), 41]
    index = [
        [f"CBIS-DDSM/jpeg/1.3.7.{n}/{kind}-1.jpg", f"{kind} images", f"1.3.7.{n}"]
        for n in numbers
        for kind in ("ROI mask", "cropped")
    ]
    listing = comma_separated(["image_path", "SeriesDescription", "SeriesInstanceUID"], index)
    files = {f"csv/{name}": text for name, text in mammograms(test=(41,)).items()} | {"csv/dicom_info.csv": listing}
    files |= {f"jpeg/1.3.7.{n}/cropped-1.jpg": picture(n, "JPEG") for n in numbers}
    found = prepare("cbis_ddsm_mass", write(tmp_path / "raw", files), tmp_path / "out")
    assert found.by_id["cbis_mass-P_00041-left-CC-1"].meta["image_name"] == "jpeg/1.3.7.41/cropped-1.jpg"
    assert len(found.by_id) == 21


def test_cbis_ddsm_calcifications(tmp_path):
    """Their lists have other columns, one of them spelled otherwise than in those of the masses."""
    names = [
        "patient_id", "breast density", "left or right breast", "image view", "abnormality id", "abnormality type",
        "calc type", "calc distribution", "assessment", "pathology", "subtlety", "image file path",
        "cropped image file path", "ROI mask file path",
    ]  # fmt: skip
    files = {}
    for part, numbers in (("Training", range(20)), ("Test", (38, 41))):
        rows = []
        for n in numbers:
            folder = f"Calc-{part}_P_{n:05d}_RIGHT_MLO"
            crop = f"{folder}_1/1.3.6.{n}/1.3.7.{n}/000001.dcm\n"
            rows.append([f"P_{n:05d}", 3, "RIGHT", "MLO", 1, "calcification", "PLEOMORPHIC", "CLUSTERED", 4,
                         PATHOLOGIES[n % 3], 5, f"{folder}/1.2/1.3/000000.dcm", crop, crop])  # fmt: skip
            files[f"CBIS-DDSM/{folder}_1/08-29-2017-DDSM-NA-1/1.0-cropped images-3/1-1.dcm"] = dicom(100 + n)
        files[f"calc_case_description_{part[:5].lower()}_set.csv"] = comma_separated(names, rows)
    found = prepare("cbis_ddsm_calcification", write(tmp_path / "raw", files), tmp_path / "out")
    assert len(found.by_id) == 22 and not found.skipped
    one = found.by_id["cbis_calc-P_00041-right-MLO-1"]
    assert one.turns[0].question.startswith("Is the calcification in this mammogram benign or malignant?")
    assert one.turns[0].answer == "benign without callback"
    assert {sample.id for sample in found.splits["test"]} == {f"cbis_calc-P_000{n}-right-MLO-1" for n in (38, 41)}


def test_rsna_pneumonia(tmp_path):
    names = ["patientId", "x", "y", "width", "height", "Target"]
    boxes = (("", "", "", "", 0), (1.0, 2.0, 3.0, 4.0, 1))
    rows = [[f"patient-{n}", *boxes[(n + 1) % 2]] for n in range(40)]
    twice = ["patient-0", 5.0, 6.0, 7.0, 8.0, 1]
    header = {"PatientName": "Doe^Jane", "PatientBirthDate": "", "Modality": "DX"}
    headers = [header | ({"StudyDate": "19991231"} if n % 4 == 0 else {}) for n in range(30)]
    headers += [{"PatientName": " ", "BurnedInAnnotation": "NO"}] * 9 + [{"BurnedInAnnotation": "YES"}]
    files = {f"stage_2_train_images/patient-{n}.dcm": dicom(100 + n, **headers[n]) for n in range(40)}
    files["stage_2_train_labels.csv"] = comma_separated(names, [*rows, twice, ["patient-77", "", "", "", "", 0], ["x"]])
    found = prepare("rsna_pneumonia", write(tmp_path / "raw", files), tmp_path / "out")
    assert len(found.by_id) == 40
    assert found.by_id["rsna_pneumonia-patient-0"].turns[0].answer == "pneumonia"
    assert found.by_id["rsna_pneumonia-patient-1"].turns[0].answer == "no pneumonia"
    assert sorted(found.skipped) == [
        "expected 6 comma-separated columns, found 1",
        "patient-77.dcm: image file not found",
    ]
    told = [Counter(split.identifying) for split in found.manifest.splits.values()]
    assert sum(told, Counter()) == {"PatientName": 30, "StudyDate": 8, "BurnedInAnnotation": 1}
    assert sum(split.identified for split in found.manifest.splits.values()) == 31
    parts = tuple(Part(PreparedSplit(found.folder, name), True, samples) for name, samples in found.splits.items())
    findings = [(f.where, f.code, f.count, f.total, f.ids[0].split()[0]) for f in raw_headers(Material(parts))]
    assert ("out:train", "dicom-identifiers", "PatientName") in [(f[0], f[1], f[4]) for f in findings]
    assert sum(f[2] for f in findings) == 31 and sum(f[3] for f in findings) == 40
    assert "Doe" not in (found.folder / "manifest.json").read_text() + repr(findings)


def report(number, findings="Clear lungs.", impression="Normal  chest."):
    images = "".join(f'<parentImage id="CXR{number}_IM-{view}"><figureId>F</figureId></parentImage>' for view in (1, 2))
    return (
        '<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR"/><MedlineCitation><Article><Abstract>'
        '<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION"/>'
        f'<AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText>'
        f"</Abstract></Article></MedlineCitation>{images}</eCitation>"
    )


def test_iu_xray(tmp_path):
    files = {f"reports/ecgen-radiology/{n}.xml": report(n) for n in range(30)}
    files |= {f"reports/ecgen-radiology/{30}.xml": report(30, findings=""), "reports/ecgen-radiology/31.xml": "<eCit"}
    files |= {f"images/CXR{n}_IM-{view}.png": picture(2 * n + view) for n in range(31) for view in (1, 2) if n != 7}
    found = prepare("iu_xray", write(tmp_path / "raw", files), tmp_path / "out")
    cases = [found.cases(split) for split in ("train", "validation", "test")]
    assert len(found.by_id) == 58
    assert len(cases[2]) == 6
    assert sum(map(len, cases)) == len(set.union(*cases)) == 29
    assert found.by_id["iu_xray-CXR3_IM-2"].turns[0].answer == "Normal chest. Clear lungs."
    assert found.by_id["iu_xray-CXR3_IM-2"].meta["task"] == "caption"
    assert "CXR7_IM-1.png: image file not found" in found.skipped
    assert any(reason.startswith("not XML") for reason in found.skipped)
    assert len(found.skipped) == 3


def test_peir_gross(tmp_path):
    train = "".join(f"{n}.jpg\tGROSS: Lung number {n} \n" for n in range(20))
    files = {
        "train_images.tsv": train + "100.jpg without caption\n",
        "test_images.tsv": "40.jpg\tLIVER: a tab\there\n",
        **{f"peir_gross_images/{n}.jpg": picture(n, "JPEG") for n in [*range(20), 40]},
    }
    found = prepare("peir_gross", write(tmp_path / "raw", files), tmp_path / "out")
    assert len(found.splits["train"]) + len(found.splits["validation"]) == 20
    assert found.by_id["peir_gross-40"].turns[0].answer == "LIVER: a tab here"
    assert found.by_id["peir_gross-3"].turns[0].question == "What does the image describe?"
    assert found.skipped == ["expected 2 tab-separated columns, found 1"]


def roco_lists(split, address):
    link = f"ROCO_00001\twget -r {address}/PMC1.tar.gz -P /path/to/Dir\tfig.jpg\n"
    return {
        f"data/{split}/radiology/captions.txt": "ROCO_00001\t Axial CT (arrow).\nROCO_00002\t Lost.\nROCO_00003\n",
        f"data/{split}/radiology/dlinks.txt": link + link.replace("ROCO_00001", "ROCO_00002").replace("PMC1", "PMC2"),
        f"data/{split}/radiology/licences.txt": "ROCO_ID,PMC_ID,CC\nROCO_00001,PMC1_fig.jpg,CC BY\n",
    }


def test_roco_from_the_network(tmp_path, monkeypatch):
    files = Files({"/PMC1.tar.gz": article(fig=picture(3, "JPEG"))})
    with serve(files) as address:
        for split in roco.SPLITS:
            files.content |= {f"/{name}": text.encode() for name, text in roco_lists(split, address).items()}
        monkeypatch.setattr(roco, "BASE", f"{address}/data")
        manifest = prepare_dataset(DATASETS["roco"], tmp_path / "out", max_bad_share=0.9)
    assert {name: split.samples for name, split in manifest.splits.items()} == dict.fromkeys(roco.SPLITS, 1)
    assert {row.reason for row in manifest.skipped} == {
        "ROCO_00002.jpg: image file not found",
        "expected 2 tab-separated columns, found 1",
    }


def test_roco_as_its_own_script_names_figures(tmp_path):
    files = {}
    for split in roco.SPLITS:
        files |= roco_lists(split, "ftp://host/pub/pmc/oa_package/1e/ed")
        files[f"data/{split}/radiology/images/PMC1_fig.jpg"] = picture(5, "JPEG")
    found = prepare("roco", write(tmp_path / "raw", files), tmp_path / "out")
    only = found.by_id["roco-ROCO_00001"]
    assert only.turns[0].answer == "Axial CT (arrow)."
    assert (only.meta["licence"], only.meta["image_name"]) == ("CC BY", "PMC1_fig.jpg")
