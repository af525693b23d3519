"""The built-in rows on small copies of their layouts, and their downloads from a server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomedgpt_jax.data.datasets import ALL, DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.rows import BadRow, ImageMember
from biomedgpt_jax.data.sets import llava_med, pubmedvision, slake, vqa_rad
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.spec import Access
from tests.data.server import Files, article, serve, zipped


def rows(name, folder):
    return {split: list(raw.rows()) for split, raw in DATASETS[name].read(folder).splits.items()}


def slake_files(make_jpeg):
    entry = {
        "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "What modality is used?", "answer": "MRI",
        "q_lang": "en", "location": "Abdomen", "modality": "MRI", "answer_type": "OPEN", "base_type": "vqa",
        "content_type": "Modality", "triple": ["vhead", "_", "_"], "qid": 11934,
    }  # fmt: skip
    chinese = {**entry, "q_lang": "zh", "qid": 1}
    closed = {**entry, "question": "Is it a CT?", "answer": "No", "answer_type": "CLOSED", "qid": 2}
    train = [entry, chinese, closed, {**entry, "qid": 3, "img_name": "xmlab9/source.jpg"}]
    return {
        "train.json": json.dumps(train).encode(),
        "validation.json": json.dumps([entry]).encode(),
        "test.json": json.dumps([chinese, closed]).encode(),
        "imgs.zip": zipped({"imgs/xmlab1/source.jpg": make_jpeg(1)}),
    }


def test_every_row_states_its_terms():
    assert len(DATASETS) == len(ALL)
    for spec in ALL:
        assert spec.licence
        assert spec.source
        assert spec.citation
        assert spec.task
        assert spec.modality
        assert (spec.download is None) == bool(spec.steps), spec.name
        assert spec.download is None or spec.access in (Access.OPEN, Access.RESEARCH), spec.name


def test_slake_keeps_the_questions_of_one_language(tmp_path, make_jpeg):
    for name, data in slake_files(make_jpeg).items():
        (tmp_path / name).write_bytes(data)
    found = rows("slake", tmp_path)
    assert [row.row for row in found["train"]] == [1, 3, 4]
    first, closed, lost = found["train"]
    assert first.id == "slake-train-11934"
    assert first.turns == (("What modality is used?", "MRI"),)
    assert first.meta["answer_type"] == "open"
    assert first.meta["question_type"] == "Modality"
    assert (closed.meta["answer_type"], closed.meta["organ"]) == ("closed", "Abdomen")
    assert first.images[0].read() == make_jpeg(1)
    assert isinstance(lost, BadRow)
    assert "xmlab9/source.jpg: not in the image archives" in lost.reason
    assert [row.turns[0][1] for row in found["test"]] == ["No"]
    assert [row.row for row in rows("slake_zh", tmp_path)["train"]] == [2]


def test_path_vqa(tmp_path, make_jpeg):
    (tmp_path / "data").mkdir()
    for split, answers in {"train": ["Yes", "liver"], "validation": ["no"], "test": ["in the  canals"]}.items():
        made = pa.table(
            {
                "image": [{"bytes": make_jpeg(0), "path": None}] * len(answers),
                "question": ["is this a liver?"] * len(answers),
                "answer": answers,
            }
        )
        pq.write_table(made, tmp_path / f"data/{split}-00000-of-00001-ff.parquet")
    found = rows("path_vqa", tmp_path)
    assert [row.meta["answer_type"] for row in found["train"]] == ["closed", "open"]
    assert found["test"][0].turns[0][1] == "in the canals"
    assert found["train"][1].id == "path_vqa-train-2"
    sizes = r"split 'train': 2 rows found, 19654 published; split 'validation': 1 rows found, 6259 published"
    with pytest.raises(DataError, match=sizes):
        prepare_dataset(DATASETS["path_vqa"], tmp_path / "out", source_dir=tmp_path)
    manifest = prepare_dataset(DATASETS["path_vqa"], tmp_path / "out", source_dir=tmp_path, allow_other_sizes=True)
    assert manifest.splits["train"].images == 1
    assert manifest.splits["train"].published == 19654


def test_medpix_clinqa(tmp_path, make_jpeg):
    (tmp_path / "data").mkdir()
    image = {"bytes": make_jpeg(1), "path": "MPX1.jpg"}
    made = {
        "image_id": [image, image, None], "mode": ["CT", "CT", "MR"], "case_id": ["MPX1009", "MPX1009", "MPX2"],
        "question": ["What is seen?", "Where?", " "], "answer": ["A mass.", "In the liver.", "A cyst."],
    }  # fmt: skip
    pq.write_table(pa.table(made), tmp_path / "data/train-00000-of-00001.parquet")
    first, second, broken = rows("medpix_clinqa", tmp_path)["train"]
    assert (first.turns, first.meta) == ((("What is seen?", "A mass."),), {"mode": "CT", "case_id": "MPX1009"})
    assert first.id != second.id and first.images[0].read() == make_jpeg(1)
    assert isinstance(broken, BadRow) and broken.reason == "the question of turn 1 is empty"


@pytest.mark.parametrize("unpacked", [False, True])
def test_pubmedvision_places_one_image_per_picture(tmp_path, make_jpeg, unpacked):
    talk = [{"from": "human", "value": "Describe."}, {"from": "gpt", "value": "Lung."}]
    row = {"id": "Alignment_VQA_0", "image": ["images/pmc_1_0.jpg", "images/pmc_2_0.jpg"], "body_part": "Chest",
           "modality": "CT", "conversations": talk}  # fmt: skip
    for name in pubmedvision.FILES.values():
        (tmp_path / name).write_text(json.dumps([row]))
    if unpacked:
        (tmp_path / "images").mkdir()
        for number in (1, 2):
            (tmp_path / f"images/pmc_{number}_0.jpg").write_bytes(make_jpeg(number))
    else:
        for number in (1, 2):
            data = zipped({f"images_{number}/pmc_{number}_0.jpg": make_jpeg(number)})
            (tmp_path / f"images_{number}.zip").write_bytes(data)
    found = rows("pubmedvision", tmp_path)
    assert sorted(found) == ["alignment", "instruct"]
    (only,) = found["instruct"]
    assert only.turns == (("<image>\n<image>\nDescribe.", "Lung."),)
    assert [image.read() for image in only.images] == [make_jpeg(1), make_jpeg(2)]
    assert isinstance(only.images[0], ImageMember) != unpacked
    assert only.meta == {"body_part": "Chest", "modality": "CT"}


def test_llava_med_from_the_network(tmp_path, make_jpeg, monkeypatch):
    talk = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A scan."}]
    entries = [
        {"id": pair, "image": f"{pair}.jpg", "domain": {"ct": True}, "conversatons": talk} for pair in ("1_F1", "2_F1")
    ]
    base = "/med_llava"
    files = Files(
        {
            f"{base}/instruct/llava_med_instruct_10k.json": json.dumps(entries).encode(),
            "/1.tar.gz": article(fig=make_jpeg(4)),
        }
    )
    with serve(files) as address:
        listing = [
            {"pair_id": f"{n}_F1", "pmc_tar_url": f"{address}/{n}.tar.gz", "image_file_path": "PMC1/fig.jpg"}
            for n in (1, 2)
        ]
        text = "\n".join(json.dumps(line) for line in listing)
        files.content[f"{base}/llava_med_image_urls.jsonl"] = text.encode()
        monkeypatch.setattr(llava_med, "BASE", address + base)
        seen = []
        spec = DATASETS["llava_med_instruct_10k"]

        def report(*event):
            seen.append(event)

        manifest = prepare_dataset(spec, tmp_path / "out", max_bad_share=0.5, report=report)
    assert (manifest.splits["train"].samples, manifest.splits["train"].skipped) == (1, 1)
    assert manifest.skipped[0].reason == "2_F1.jpg: image file not found"
    assert ("PubMed Central articles", 2, 2) in seen
    assert "404" in json.loads((tmp_path / "out.raw/images/missing.json").read_text())["2_F1"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llava_med_alignment", "llava_med_alignment_500k.json"),
        ("llava_med_instruct_60k", "llava_med_instruct_60k.json"),
        ("llava_med_instruct_60k_inline", "llava_med_instruct_60k_inline_mention.json"),
    ],
)
def test_llava_med_from_a_folder(name, file, tmp_path, make_jpeg):
    """Several turns, the picture before or behind the first question; rows whose figure never came are told."""
    talk = [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A scan."},
        {"from": "human", "value": "Of what?"}, {"from": "gpt", "value": "The chest."},
    ]  # fmt: skip
    row = {"id": "1_F1", "image": "1_F1.jpg", "domain": {"chest_xray": False}, "conversatons": talk}
    (tmp_path / file).write_text(json.dumps([row, {**row, "id": "2_F2", "image": "2_F2.jpg"}]))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1_F1.jpg").write_bytes(make_jpeg(1))
    out = tmp_path / "out"
    manifest = prepare_dataset(DATASETS[name], out, source_dir=tmp_path, max_bad_share=0.5)
    assert (manifest.splits["train"].samples, manifest.skipped[0].reason) == (1, "2_F2.jpg: image file not found")
    sample = PreparedSplit(out, "train")[0]
    assert [turn.answer for turn in sample.turns] == ["A scan.", "The chest."] and sample.id == "1_F1"


def test_vqa_rad_from_the_osf_archive(tmp_path, shared_data, monkeypatch):
    raw = shared_data / "vqa_rad"
    members = {f"VQA_RAD Image Folder/{path.name}": path.read_bytes() for path in (raw / "images").iterdir()}
    questions = (raw / "VQA_RAD Dataset Public.json").read_bytes()
    archive = zipped({**members, "VQA_RAD Dataset Public.json": questions})
    files = Files({"/osf": archive})
    files.cut = [5_000_000]
    with serve(files) as address:
        monkeypatch.setattr(vqa_rad, "OSF_ZIP", f"{address}/osf?zip=")
        manifest = prepare_dataset(DATASETS["vqa_rad"], tmp_path / "out")
        assert {name: split.samples for name, split in manifest.splits.items()} == DATASETS["vqa_rad"].published
        files.content["/osf"] = zipped({"VQA_RAD Dataset Public.json": questions.replace(b"Yes", b"No", 1)})
        with pytest.raises(DataError, match="expected 948b7156"):
            prepare_dataset(DATASETS["vqa_rad"], tmp_path / "other")


SCRIPT = """
import sys
from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prepare import prepare_dataset
try:
    manifest = prepare_dataset(DATASETS["slake"], sys.argv[1], max_bad_share=0.5, allow_other_sizes=True)
    print({name: split.samples for name, split in manifest.splits.items()})
except DataError as error:
    print(error)
"""


def run_with_hub(address, tmp_path, out):
    """In a process of its own: the hub's address is read when huggingface_hub is imported."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT, str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_slake_from_the_hub(tmp_path, make_jpeg):
    repo = f"/datasets/{slake.REPO}/"
    files = Files({repo + name: data for name, data in slake_files(make_jpeg).items()})
    files.content[repo + "KG.zip"] = b"not wanted"
    with serve(files) as address:
        files.stated["imgs.zip"] = "0" * 64
        refused = run_with_hub(address, tmp_path, tmp_path / "out")
        assert f"imgs.zip has sha256 {hashlib.sha256(files.content[repo + 'imgs.zip']).hexdigest()}, the hub" in refused
        assert not (tmp_path / "out.raw" / "imgs.zip").exists()
        files.stated.clear()
        assert run_with_hub(address, tmp_path, tmp_path / "out") == "{'train': 2, 'validation': 1, 'test': 1}\n"
        del files.content[repo + "imgs.zip"]
        assert "no file like ['imgs.zip'] came" in run_with_hub(address, tmp_path, tmp_path / "two")
    assert not any("KG.zip" in path for _, path, _ in files.asked)
    offline = run_with_hub(address, tmp_path, tmp_path / "three")
    assert "BoKelvin/SLAKE: download failed" in offline
    assert "give their folder as the source" in offline
