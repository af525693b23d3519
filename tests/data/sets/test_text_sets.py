"""Questions, summaries and trials: the readers on small files in the published layouts."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prepare import prepare_dataset
from tests.data.server import zipped
from tests.data.sets.raw import comma_separated, picture, prepare, write


def abstract(answer="yes", **other):
    return {
        "QUESTION": "Does it  help?", "CONTEXTS": ["It was tried.", "It helped."], "LABELS": ["METHODS", "RESULTS"],
        "MESHES": ["Humans"], "YEAR": "2001", "reasoning_required_pred": answer, "reasoning_free_pred": answer,
        "final_decision": answer, "LONG_ANSWER": "It did.", **other,
    }  # fmt: skip


def test_pubmed_qa(tmp_path):
    entries = {"11": abstract(), "12": abstract("no"), "13": abstract("perhaps"), "14": abstract("maybe")}
    raw = write(
        tmp_path / "raw", {"ori_pqal.json": json.dumps(entries), "test_ground_truth.json": json.dumps({"14": "maybe"})}
    )
    found = prepare("pubmed_qa", raw, tmp_path / "out")
    assert {split: [sample.id for sample in samples] for split, samples in found.splits.items()} == {
        "train": ["pubmed_qa-11", "pubmed_qa-12"],
        "test": ["pubmed_qa-14"],
    }
    first = found.by_id["pubmed_qa-11"]
    assert first.turns[0].question == "It was tried. It helped.\nDoes it help? Answer yes, no or maybe."
    assert (first.meta["question"], first.meta["context"]) == ("Does it help?", "It was tried. It helped.")
    assert (first.meta["answer_type"], first.meta["choices"]) == ("closed", ["yes", "no", "maybe"])
    assert found.skipped == ["final_decision 'perhaps': expected one of ('yes', 'no', 'maybe')"]
    (raw / "test_ground_truth.json").write_text(json.dumps({"99": "yes"}))
    with pytest.raises(DataError, match=r"1 test ids are not in ori_pqal\.json, the first is '99'"):
        DATASETS["pubmed_qa"].read(raw)


def test_pubmed_qa_as_published(shared_data, tmp_path):
    manifest = prepare_dataset(DATASETS["pubmed_qa"], tmp_path / "out", source_dir=shared_data / "pubmed_qa")
    assert {name: (split.samples, split.skipped) for name, split in manifest.splits.items()} == {
        "train": (500, 0),
        "test": (500, 0),
    }


def test_medqa(tmp_path):
    options = {"A": "Ampicillin", "B": "Nitrofurantoin", "C": "Ceftriaxone", "D": "Doxycycline"}
    entry = {
        "question": "Which is the best treatment?", "answer": "Nitrofurantoin", "options": options,
        "meta_info": "step2&3", "answer_idx": "B", "metamap_phrases": ["best treatment"],
    }  # fmt: skip
    lines = [json.dumps(entry), json.dumps({**entry, "answer_idx": "C"}), "{broken"]
    raw = write(
        tmp_path / "raw",
        {"phrases_no_exclude_train.jsonl": "\n".join(lines), "phrases_no_exclude_test.jsonl": lines[0]},
    )
    found = prepare("medqa", raw, tmp_path / "out")
    only = found.by_id["medqa-train-1"]
    assert only.turns[0].answer == "Nitrofurantoin"
    assert only.turns[0].question.splitlines()[1:3] == ["A. Ampicillin", "B. Nitrofurantoin"]
    assert (only.meta["letter"], only.meta["step"]) == ("B", "step2&3")
    assert found.skipped[0] == "the answer is not the option that answer_idx names"
    assert found.skipped[1].startswith("not valid JSON")


def test_medmcqa(tmp_path):
    rows = {
        "id": ["a-1", "a-2", "a-3"], "question": ["Which vein?", "Which  nerve?", "Which?"],
        "opa": ["w", "a", "x"], "opb": ["x", "b", "x"], "opc": ["y", "c", "x"], "opd": ["z", "d", "x"],
        "cop": [0, 3, -1], "choice_type": ["single", "multi", "single"], "exp": ["so", None, None],
        "subject_name": ["Anatomy"] * 3, "topic_name": [None] * 3,
    }  # fmt: skip
    raw = write(tmp_path / "raw", {"data/README": ""})
    for split in ("train", "validation", "test"):
        pq.write_table(pa.table(rows), raw / f"data/{split}-00000-of-00001.parquet")
    found = prepare("medmcqa", raw, tmp_path / "out")
    assert sorted(found.splits) == ["train", "validation"]
    assert [sample.turns[0].answer for sample in found.splits["train"]] == ["w", "d"]
    assert found.by_id["medmcqa-a-2"].turns[0].question == "Which nerve?\nA. a\nB. b\nC. c\nD. d"
    assert found.by_id["medmcqa-a-2"].meta["subject"] == "Anatomy"
    assert found.skipped == ["cop -1: expected the number of an option, 0 to 3"] * 2


def test_pmc_vqa(tmp_path):
    names = ["Figure_path", "Question", "Answer", "Choice A", "Choice B", "Choice C", "Choice D", "Answer_label"]
    row = [
        "PMC1_F1.jpg",
        "What is the uptake, if any?",
        " Focal",
        " A:Diffuse",
        "B:Focal, left ",
        "C:None",
        "D:No",
        "B",
    ]
    broken = [*row[:-1], "E"]
    lost = ["PMC9_F9.jpg", *row[1:]]
    clean = ["index", "Figure_path", "Caption", "Question", *names[3:7], "Answer", "split"]
    raw = write(
        tmp_path / "raw",
        {
            "train.csv": comma_separated(names, [row, broken, row[:3]]),
            "test.csv": comma_separated(names, [row, lost]),
            "test_clean.csv": comma_separated(clean, [[7, "PMC1_F1.jpg", "Cap", row[1], *row[3:7], "C", "test"]]),
            "images.zip": zipped({"images/PMC1_F1.jpg": picture(9, "JPEG")}),
        },
    )
    found = prepare("pmc_vqa", raw, tmp_path / "out")
    only = found.by_id["pmc_vqa-train-1"]
    assert only.turns[0].answer == "Focal, left"
    assert only.turns[0].question.splitlines() == [
        "What is the uptake, if any?", "A. Diffuse", "B. Focal, left", "C. None", "D. No",
    ]  # fmt: skip
    assert len(only.images) == 1
    assert (only.meta["task"], only.meta["choices"][3]) == ("vqa", "No")
    assert found.by_id["pmc_vqa-test_clean-1"].turns[0].answer == "None"
    assert found.skipped == [
        "the right choice is 'E': expected one of A, B, C, D",
        "expected 8 comma-separated columns, found 3",
        "PMC9_F9.jpg: not in the image archives",
    ]


def test_meqsum_as_biomedgpt_splits_it(tmp_path):
    line = "SUBJECT: ears. MESSAGE: what  helps? \tWhat are the treatments for ringing ears?"
    raw = write(tmp_path / "raw", {"train.tsv": f"{line}\nno tab\n\tempty\n", "val.tsv": line, "test.tsv": line})
    found = prepare("meqsum", raw, tmp_path / "out")
    only = found.by_id["meqsum-train-1"]
    assert only.turns[0].answer == "What are the treatments for ringing ears?"
    assert only.turns[0].question == "Summarise this consumer's question:\nSUBJECT: ears. MESSAGE: what helps?"
    assert only.meta == {"task": "summary", "answer_type": "open", "document": "SUBJECT: ears. MESSAGE: what helps?"}
    assert found.skipped == ["expected 2 tab-separated columns, found 1", "the text to summarise is empty"]
    assert found.manifest.splits["train"].published == 800


def test_meqsum_spreadsheet(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="xlsx files need the extra `tables`")
    book = openpyxl.Workbook()
    book.active.append(["File", "CHQ", "Summary"])
    for number in range(12):
        book.active.append([f"{number}.txt", f"MESSAGE: {number}?", f"What is {number}?"])
    book.active.append(["12.txt", None, "What?"])
    out = io.BytesIO()
    book.save(out)
    name = "MeQSum_ACL2019_BenAbacha_Demner-Fushman.xlsx"
    found = prepare("meqsum_original", write(tmp_path / "raw", {name: out.getvalue()}), tmp_path / "out")
    assert sorted(found.splits) == ["test", "train", "validation"]
    assert len(found.by_id) == 12
    assert found.by_id["meqsum-3.txt"].turns[0].answer == "What is 3?"
    assert found.skipped == ["no cell in column ['CHQ']"]
    write(tmp_path / "raw", {name: "not a sheet"})
    with pytest.raises(DataError, match="not a readable xlsx file"):
        list(DATASETS["meqsum_original"].read(tmp_path / "raw").splits["train"].rows())


def dialogue(number, description="Q. What does  it mean?"):
    return (
        f"id={number}\nhttps://site/{number}\n\nDescription\n{description}\n\nDialogue\n"
        f"Patient:\nHi doctor, number {number}.\n\nDoctor:\nHello.\nRest.\n\n\n"
    )


@pytest.mark.parametrize("name", ["healthcaremagic", "icliniq"])
def test_dialogues(tmp_path, name):
    text = "".join(map(dialogue, range(20)))
    broken = "id=99\nhttps://site/99\n\nDialogue\nPatient:\nHi.\n"
    raw = write(tmp_path / "raw", {f"{name}_dialogue.txt": text, f"{name}_dialogue_2.txt": dialogue(0) + broken})
    found = prepare(name, raw, tmp_path / "out")
    assert len(found.by_id) == 21
    assert min(len(samples) for samples in found.splits.values()) > 0
    seventh = found.by_id[f"{name}-{name}_dialogue-7"]
    assert seventh.turns[0].answer == "What does it mean?"
    assert seventh.meta["document"] == "Patient: Hi doctor, number 7. Doctor: Hello. Rest."
    assert found.skipped == ["expected the lines 'Description' and 'Dialogue'"]
    again = prepare(name, raw, tmp_path / "again")
    assert {split: [s.id for s in v] for split, v in again.splits.items()} == {
        split: [s.id for s in v] for split, v in found.splits.items()
    }


def trial(number, criteria="Inclusion: adults."):
    return (
        f"<clinical_study><id_info><nct_id>NCT{number}</nct_id></id_info><brief_title>Trial {number}</brief_title>"
        f"<eligibility><criteria><textblock>\n  {criteria}\n</textblock></criteria></eligibility></clinical_study>"
    )


def test_trec_trials(tmp_path):
    topics = "".join(f'<topic number="{n}">\nA patient\nof {n} years.</topic>' for n in range(20, 40))
    judged = [f"{n} 0 NCT{100 + grade} {grade}" for n in range(20, 40) for grade in (0, 1, 2)]
    members = {f"part1/NCT1xx/NCT{n}.xml": trial(n) for n in (100, 101, 102)}
    raw = write(
        tmp_path / "raw",
        {
            "topics2022.xml": f'<topics task="2022 TREC Clinical Trials">{topics}</topics>',
            "qrels2022.txt": "\n".join([*judged, "21 0 NCT999 2"]) + "\n",
            "ClinicalTrials.2021-04-27.part1.zip": zipped({**members, "part1/NCT1xx/NCT103.xml": "<broken"}),
        },
    )
    found = prepare("trec_trials_2022", raw, tmp_path / "out")
    assert len(found.by_id) == 60
    one = found.by_id["trec_trials_2022-25-NCT101"]
    assert one.turns[0].answer == "excluded"
    assert one.meta["texts"] == ["A patient of 25 years.", "Trial 101. Inclusion: adults."]
    assert one.meta["task"] == "trial"
    cases = [found.cases(split) for split in ("train", "validation", "test")]
    assert sum(map(len, cases)) == len(set.union(*cases)) == 20
    assert found.skipped == ["topic '21', trial 'NCT999', judgement '2': one of them is not known"]
    write(raw, {"ClinicalTrials.2021-04-27.part1.zip": b"PK\x03\x04 cut"})
    with pytest.raises(DataError, match="not a whole zip archive"):
        list(DATASETS["trec_trials_2022"].read(raw).splits["train"].rows())
