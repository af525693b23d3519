"""`biomedgpt mix`, whose result both families read, and one exam in all wordings."""

import json

import pytest

from biomedgpt_jax.data.source import PreparedSplit
from tests.command import assert_refused, biomedgpt, config, contents


@pytest.fixture(scope="module")
def mixture(prepared_data, tmp_path_factory):
    """Of eight samples four repeat others."""
    out = tmp_path_factory.mktemp("mixed") / "mix"
    called = biomedgpt("mix", config(f"mixture.py:data={prepared_data},eval={prepared_data}"), f"--out={out}",
                       "--config.workers=1")  # fmt: skip
    assert called.code == 0, called
    return out, called


def test_its_files_say_what_it_holds(mixture, prepared_data, tmp_path):
    out, called = mixture
    report = json.loads((out / "mixture.json").read_text())
    assert report["size"] == {"samples": 4, "images": 4, "tokens": None}
    (only,) = report["sets"]
    assert only == {"set": "tiny:train", "samples": 8, "taken": 4, "over": 0, "dropped": {"duplicate": 4}}
    assert report["kept_free_of"] == ["tiny:test"] and len(report["held_out_instructions"]) == 28
    assert report["balance"]["answers"] == {"vqa-yes-no": {"no": 2, "yes": 2}}
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in dropped] == ["s4", "s5", "s6", "s7"] and dropped[0]["because"] == "s0"
    assert "duplicate" in called.out and "4 samples, 4 images" in called.out
    page = (out / "mixture.html").read_text()
    assert "vqa-yes-no" in page and "tiny:test" in page
    whole = config(f"mixture.py:data={prepared_data},eval={prepared_data}")
    again = biomedgpt("mix", whole, f"--out={tmp_path / 'mix'}", "--config.workers=1")
    assert again.code == 0
    same = {name: each for name, each in contents(out).items() if name not in ("manifest.json", "mixture.html")}
    assert same.items() <= contents(tmp_path / "mix").items() and len(same) == 4


@pytest.mark.parametrize("family", ["smoke.py:stage=2", "smoke_biomedgpt.py:epochs=1"])
def test_both_families_read_it(family, mixture, tmp_path):
    out, _ = mixture
    name, _, arguments = family.partition(":")
    sizes = {
        "smoke.py": ("--config.tokenizer.train_vocab_size=330", "--config.data.row_tokens=160"),
        "smoke_biomedgpt.py": ("--config.tokenizer.train_words=270", "--config.model.vocab_size=330",
                               "--config.data.answers=", "--config.data.source_tokens=90"),
    }  # fmt: skip
    called = biomedgpt("lint", config(f"{name}:{arguments},data={out}"), *sizes[name], "--config.data.threads=1",
                       "--config.eval.paths=()", f"--workdir={tmp_path}")  # fmt: skip
    assert called.code == 0 and "error" not in called.out, called
    split = PreparedSplit(out, "train")
    assert {sample.meta["task"] for sample in split.samples(range(4))} == {"instruction"}


@pytest.mark.parametrize(
    "options, code, said",
    [
        (("--config.weights=(0.0,)",), 1, "the weight of tiny:train is 0"),
        (("--config.caps=(9,)",), 1, "the cap of tiny:train is 9, but it has 8 samples"),
        (("--config.samples=5",), 1, "5 samples cannot be had: 4 are the most"),
        (("--config.wights=(1.0,)",), 2, "there is no such configuration key. Did you mean 'weights'?"),
        (("--config.split=tune",), 1, "has no split 'tune'; it has test, train"),
        (("--config.eval.splits=('tune',)",), 2, "has no split tune; it has test, train"),
        (("--config.paths=('nowhere',)",), 1, "nowhere holds no manifest.json"),
        (("--config.paths=()",), 2, "config.paths is empty"),
        (("--config.split=test", "--config.eval.splits=('train',)"), 0, ""),
        (("--config.split=test",), 1, "tiny:test is to be mixed and is an evaluation set"),
    ],
)
def test_bad_input_is_one_message(options, code, said, prepared_data, tmp_path):
    base = config(f"mixture.py:data={prepared_data},eval={prepared_data}")
    called = biomedgpt("mix", base, "--config.workers=1", *options, f"--out={tmp_path / 'mix'}")
    if code:
        assert_refused(called, code, said)
        assert not (tmp_path / "mix").exists()
    else:
        assert called.code == 0, called


def test_other_contents_do_not_overwrite(mixture, prepared_data):
    out, _ = mixture
    before = contents(out)
    called = biomedgpt("mix", config(f"mixture.py:data={prepared_data},seed=9"), f"--out={out}", "--config.workers=1")
    assert_refused(called, 1, "made from other data or settings")
    assert contents(out) == before


def test_an_exam_in_all_wordings(tiny_run, prepared_data, tmp_path):
    out = tmp_path / "all"
    wanted = config(f"eval.py:data={prepared_data},instruct=all")
    called = biomedgpt("eval", wanted, f"--model={tiny_run.folder}", f"--out={out}", "--config.batch_rows=2",
                       "--config.max_new_tokens=2")  # fmt: skip
    assert called.code == 0, called
    folders = sorted(folder.name for folder in out.iterdir() if folder.is_dir())
    assert folders == [f"wording_{number}" for number in range(1, 9)]
    accuracy, aligned = json.loads((out / "wordings.json").read_text())["scores"]
    assert (accuracy["score"], aligned["score"]) == ("accuracy", "aligned") and len(aligned["by_wording"]) == 8
    assert aligned["held_out"] == sum(aligned["by_wording"][6:]) / 2
    scores = json.loads((out / "wording_8" / "scores.json").read_text())
    assert scores["facts"]["instructions"] == ["vqa-yes-no/json-held"]
    assert [row["type"] for row in scores["alignment"]] == ["JSON"]
    row = json.loads((out / "wording_8" / "predictions.jsonl").read_text().splitlines()[0])
    assert row["question"] == "Is it red?" and row["prompt"].startswith("Inspect the scan. Is it red? Put yes or no")
    page = (out / "page.html").read_text()
    assert "held out, 7 to 8" in page and "Wording 8. Alignment accuracy" in page and "Alignment" in called.out + page

    # The same answers under another protocol, asked by the same wording.
    rescore = ("eval", f"--rescore={out / 'wording_8'}", f"--out={tmp_path / 'again'}")
    plain = biomedgpt(*rescore, config(f"eval.py:data={prepared_data}"))
    assert_refused(plain, 1, "was answered on other data")
    called = biomedgpt(*rescore, config(f"eval.py:data={prepared_data},protocol=llava-med/v1,instruct=8"))
    assert called.code == 0 and "Alignment accuracy" in called.out, called


@pytest.mark.parametrize(
    "named, code, said",
    [
        ("9", 2, "expected a number from 1 to 8, any, held-out, or one of classification/only"),
        ("nli/json", 1, "sample t0: the instruction nli/json is not of its task, which is vqa-yes-no"),
        ("all", 2, "--rescore reads the answers to one wording"),
    ],
)
def test_wordings_that_do_not_fit(named, code, said, tiny_run, prepared_data, tmp_path):
    rescore = f"--rescore={tiny_run.folder / 'eval' / 'step_2' / 'tiny_test'}"
    called = biomedgpt(
        "eval", config(f"eval.py:data={prepared_data},instruct={named}"), rescore, f"--out={tmp_path / 'o'}"
    )
    assert_refused(called, code, said)
