"""Bad input to a BiomedGPT, from its tables to a training: each fault is named, and what may be left out is told."""

import base64
import json
from pathlib import Path

import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.data.biomedgpt_tokens import train_biomedgpt_tokens
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.models.biomedgpt_config import biomedgpt_preset
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs import train as train_verb
from biomedgpt_jax.verbs.biomedgpt_spec import BiomedGptSpec
from biomedgpt_jax.verbs.families import FAMILIES
from biomedgpt_jax.verbs.loaded_pairs import UNSAID
from biomedgpt_jax.verbs.pair_data import checked_tokenizer
from biomedgpt_jax.verbs.spec_file import write_spec
from tests.command import TINY, Called, assert_refused, biomedgpt, config
from tests.data.sets.raw import picture
from tests.verbs.test_biomedgpt import SHORT


def image(level: int) -> str:
    return base64.b64encode(picture(level)).decode()


def question(name: str, answer: str, asked: str = "is it red?", shown: str | None = None, level: int = 1) -> str:
    return f"{name}\tim-{name}\t{asked}\t1|!+{answer}\t\t{image(level) if shown is None else shown}"


def prepare(folder: Path, layout: str, lines: list[str], *options: str) -> tuple[Path, Called]:
    """Training data, and two questions to score in the VQA table."""
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    (folder / "test.tsv").write_text("\n".join(question(f"t{n}", "no", level=50 + n) for n in range(2)) + "\n")
    scored = ",test=test.tsv" if layout == "biomedgpt-vqa" else ""
    own = config(f"data/own.py:layout={layout},name=tsv,train=train.tsv{scored}")
    out = folder / "data"
    called = biomedgpt("prepare", own, f"--config.source={folder}", "--config.workers=1", f"--out={out}", *options)
    return out, called


def train(data: Path, workdir: Path, *options: str) -> Called:
    return biomedgpt("train", config(f"smoke_biomedgpt.py:data={data}"), *SHORT, f"--workdir={workdir}", *options)


GOOD = [question(f"q{n}", ("no", "yes")[n % 2], level=n) for n in range(8)]
ODD = [question("long", "yes", "very " * 60 + "red?", level=9), question("rare", "perhaps", level=10)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A question that is too long, and an answer that stands in no list."""
    data, called = prepare(tmp_path_factory.mktemp("odd"), "biomedgpt-vqa", [*GOOD, *ODD])
    assert called.code == 0, called
    return data


def test_rows_that_cannot_be_read_are_named(tmp_path):
    broken = [
        question("q8", "yes", "is it\tred?"),
        question("q9", "yes", shown="!!!"),
        question("q10", "yes", shown=base64.b64encode(b"no picture").decode()),
        question("q11", " "),
        *["short"] * 20,
    ]
    data, refused = prepare(tmp_path, "biomedgpt-vqa", [*GOOD, *broken])
    listing = tmp_path / "data.bad_rows.jsonl"
    assert_refused(refused, 1, "24 of 32 rows cannot be used", "train.tsv row 9: expected 6 tab-separated columns")
    assert f"All of them are named in {listing}" in refused.err
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [(row["split"], row["file"], row["row"]) for row in rows] == [
        ("train", "train.tsv", n) for n in range(9, 33)
    ]
    assert "columns of a vqa file, found 1" in rows[-1]["reason"]
    _, called = prepare(tmp_path, "biomedgpt-vqa", [*GOOD, *broken], "--config.max_bad_share=0.75")
    assert called.code == 0 and not listing.exists(), called
    for text in (
        "row 10: image column is not base64",
        "row 11: im-q10: not a readable image",
        "row 12: the answer of turn 1 is empty",
    ):
        assert f"skipped train.tsv {text}" in called.out
    assert f"skipped 14 rows more: all are in {data / 'manifest.json'}" in called.out
    manifest = json.loads((data / "manifest.json").read_text())
    assert manifest["splits"]["train"]["skipped"] == len(manifest["skipped"]) == 24


def test_a_training_names_what_it_cannot_use(odd, tmp_path):
    listed, run = tmp_path / "answers.txt", tmp_path / "run"
    listed.write_text("no\nyes\n")
    strict = ("--config.data.on_overflow=error", f"--config.data.answers={listed}")
    long = "1 of 10 samples can't be used: sample train-long (train.tsv row 9): "
    assert_refused(train(odd, run, *strict), 1, long, "set on_overflow", f"All are listed in {run / 'left_out.jsonl'}")
    (row,) = map(json.loads, (run / "left_out.jsonl").read_text().splitlines())
    assert row["sample"] == f"{odd}:train train-long (train.tsv row 9)" and "the limits are 24 and 24" in row["reason"]
    room = ("--config.data.source_tokens=120", "--config.data.target_tokens=120")
    unlisted = "the answers of 1 of 10 pairs are not in the list of answers"
    rare, second = "data:train train-rare (train.tsv row 10), turn 1", tmp_path / "second"
    assert_refused(train(odd, second, *strict, *room), 1, unlisted, rare, f"All are listed in {second}")
    assert rare in (second / "left_out.jsonl").read_text()
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    ("family", "lost"),
    [
        ("biomedgpt", ["long (train.tsv row 9)", "rare (train.tsv row 10), turn 1"]),
        ("llama3_med", ["long (train.tsv row 9)"]),
    ],
)
def test_what_is_left_out_is_told_and_listed(family, lost, odd, tmp_path):
    """In both families; the data of a run alone, which is what a training makes first."""
    listed, run = tmp_path / "answers.txt", tmp_path / "run"
    listed.write_text("no\nyes\n")
    run.mkdir()
    names = {
        "biomedgpt": (f"smoke_biomedgpt.py:data={odd}", *SHORT, f"--config.data.answers={listed}"),
        "llama3_med": (f"smoke.py:stage=1,data={odd}", *TINY, "--config.data.row_tokens=160"),
    }
    name, *options = (*names[family], "--config.data.on_overflow=skip", "--config.eval.paths=()")
    settings = command_line.parse(train_verb, [config(name), *options]).config
    made = FAMILIES[family]
    mesh = make_mesh(MeshShape(**settings.mesh))
    said = made.data(settings, made.spec(settings), mesh, run).said
    ids = [f"data:train train-{each}" for each in lost]
    assert f"left out: {len(lost)} ({', '.join(ids)}; reasons: left_out.jsonl)" in said
    rows = [json.loads(line) for line in (run / "left_out.jsonl").read_text().splitlines()]
    assert [row["sample"].rsplit("/", 1)[1] for row in rows] == ids
    if family == "biomedgpt":
        assert "the limits are 24 and 24" in rows[0]["reason"] and "closed list" in rows[1]["reason"]


def test_questions_that_cannot_be_asked_are_listed(odd, tmp_path):
    """Scores without them would be of another set, so that nothing is scored."""
    named = (config(f"smoke_biomedgpt.py:data={odd}"), *SHORT, "--config.eval.split=train")
    settings = command_line.parse(train_verb, [*named, "--config.data.on_overflow=skip"]).config
    family, mesh = FAMILIES["biomedgpt"], make_mesh(MeshShape(**settings.mesh))
    spec = family.spec(settings)
    (scorer,) = family.data(settings, spec, mesh, tmp_path).scorers
    refused = r"1 of 10 questions cannot be asked: sample train-long \(train.tsv row 9\).*scores.left_out.jsonl"
    with pytest.raises(DataError, match=refused):
        scorer(family.build(settings, spec), {}, tmp_path / "scores", {}, lambda what, done, total: None)
    (row,) = map(json.loads, (tmp_path / "scores.left_out.jsonl").read_text().splitlines())
    assert row["sample"] == "train-long (train.tsv row 9)" and "limits are 24 and 24" in row["reason"]


def test_nothing_left_to_train_on_is_refused(odd, tmp_path):
    narrow = (
        config(f"smoke.py:stage=1,data={odd}"),
        *TINY,
        "--config.data.row_tokens=20",
        "--config.data.on_overflow=skip",
    )
    run = ("train", *narrow, "--config.eval.paths=()", f"--workdir={tmp_path / 'run'}")
    assert_refused(biomedgpt(*run), 1, "none of the 10 samples fits a row of 20 tokens and 1 images")


def test_a_caption_of_which_nothing_is_left_to_learn(tmp_path):
    rows = [f"c{n}\tim{n}\t{'?!' if n == 3 else 'a red image'}\t\t{image(n)}" for n in range(8)]
    data, called = prepare(tmp_path, "biomedgpt-caption", rows)
    assert called.code == 0, called
    run = train(data, tmp_path / "run", "--config.eval.paths=()", "--config.data.on_overflow=error")
    assert_refused(
        run, 1, "1 of 8 samples can't be used: sample train-c3 (train.tsv row 4): the target of turn 1 is empty"
    )


def test_a_vocabulary_of_another_model(odd, tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    wrong = train(odd, tmp_path / "run", f"--config.tokenizer.path={tmp_path}")
    assert_refused(wrong, 1, "A BiomedGPT tokenizer is vocab.json and merges.txt")


def test_a_model_of_the_other_family_is_named_as_such(odd, tmp_path):
    (tmp_path / "bio").mkdir()
    (tmp_path / "bio" / "model.json").write_text('{"type": "ModelSpec"}')
    begun = ("--config.init.random=False", f"--config.init.run={tmp_path / 'bio'}")
    assert_refused(train(odd, tmp_path / "run", *begun), 1, "found a ModelSpec, which is of another family")
    write_spec(tmp_path / "bio", BiomedGptSpec(model=biomedgpt_preset("tiny"), image_size=32, **UNSAID))
    assert_refused(train(odd, tmp_path / "run", *begun), 2, "is another model than config.model says. width: 64 here")
    (tmp_path / "bio" / "weights.json").write_text(
        '{"meta": {"part": "model", "config": {"type": "X"}}, "hash": "", "leaves": {}}'
    )
    named = config(f"llama3_med.py:stage=2,weights={tmp_path / 'bio'},data={odd}")
    called = biomedgpt("train", named, f"--workdir={tmp_path / 'other'}")
    assert_refused(called, 1, "expected a Llama3MedConfig, found a X, which is something else")


def test_published_weights_know_the_published_words_alone(tmp_path):
    """Fewer words than the model has would pass for its own: each of them would stand for another."""
    few = train_biomedgpt_tokens(["is it red?"] * 3, tmp_path, words=270, codes=16, bins=16)
    words = biomedgpt_preset("tiny").vocab_size
    assert checked_tokenizer(few, words, tmp_path, published=False) is few
    with pytest.raises(UsageError, match=rf"the tokenizer has {few.vocab_size} tokens, the model 59457"):
        checked_tokenizer(few, words, tmp_path, published=True)
