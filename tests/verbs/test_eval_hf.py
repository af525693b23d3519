"""`biomedgpt eval --hf`: models that transformers runs, asked through their own chat templates."""

import json
import shutil

import pytest
import transformers

from tests.command import assert_refused, biomedgpt, config, prepare_own, talk


@pytest.fixture(scope="module")
def llava(tiny_run, tmp_path_factory):
    """The tiny run, of one scale, as a stock LLaVA."""
    out = tmp_path_factory.mktemp("exports") / "llava"
    called = biomedgpt("export", f"--model={tiny_run.folder}", f"--out={out}", "--noverify")
    assert called.code == 0, called
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlavaForConditionalGeneration"]
    return out


def ask(model, data, out, *more):
    return biomedgpt(
        "eval",
        config(f"eval.py:data={data}"),
        "--hf",
        f"--model={model}",
        f"--out={out}",
        "--config.max_new_tokens=2",
        "--config.train_split=",
        *more,
    )


def rows(folder):
    return {row["id"]: row for row in map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())}


def test_an_export_answers_as_the_run_it_came_from(llava, tiny_run, prepared_data, tmp_path):
    called = ask(llava, prepared_data, tmp_path, "--config.train_split=train")
    assert called.code == 0, called
    ours, theirs = rows(tiny_run.folder / "eval" / "step_2" / "tiny_test"), rows(tmp_path)
    assert {name: row["prediction"] for name, row in theirs.items()} == {
        name: row["prediction"] for name, row in ours.items()
    }
    scores = json.loads((tmp_path / "scores.json").read_text())
    facts = scores["facts"]
    assert facts["model"] == str(llava) and facts["revision"] == "a local folder"
    assert f"transformers {transformers.__version__}" in facts["asked_by"]
    assert facts["decoding"] == {"method": "greedy", "max_new_tokens": 2} and len(facts["model_hash"]) == 32
    assert scores["groups"][0]["baseline"]["answer"] == "no"
    assert "LlavaForConditionalGeneration with" in (tmp_path / "page.html").read_text()


def test_questions_without_pictures_and_in_several_lengths(llava, tiny_run, tmp_path):
    facts = {"answer_type": "open", "task": "words"}
    questions = ("Why?", "What is the longest bone of a leg, and where is it to be found?", "Which?")
    (tmp_path / "raw" / "images").mkdir(parents=True)
    written = [{"id": f"w{n}", "conversations": talk(words, "bone"), **facts} for n, words in enumerate(questions)]
    (tmp_path / "raw" / "test.json").write_text(json.dumps(written))
    assert prepare_own(tmp_path / "raw", tmp_path / "words", files="test=test.json").code == 0
    called = ask(llava, tmp_path / "words", tmp_path / "theirs", "--config.batch_rows=2")
    assert called.code == 0, called
    own = biomedgpt(
        "eval",
        config(f"eval.py:data={tmp_path / 'words'}"),
        f"--model={tiny_run.folder}",
        f"--out={tmp_path / 'ours'}",
        "--config.max_new_tokens=2",
        "--config.train_split=",
        "--config.batch_rows=8",
    )
    assert own.code == 0, own
    theirs, ours = rows(tmp_path / "theirs"), rows(tmp_path / "ours")
    assert list(theirs) == list(ours) == ["w0", "w1", "w2"]
    assert [row["prediction"] for row in theirs.values()] == [row["prediction"] for row in ours.values()]


def without_pictures(folder):
    """A chat template that puts texts alone."""
    each = "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}"
    template = "{% for m in messages %}" + each + "{% endfor %}"
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).write_text(template if name.endswith("jinja") else json.dumps({"chat_template": template}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))


def text_alone(folder):
    content = json.loads((folder / "config.json").read_text())["text_config"]
    (folder / "config.json").write_text(json.dumps(content | {"architectures": ["LlamaForCausalLM"]}))


def foreign_code(folder):
    content = json.loads((folder / "config.json").read_text())
    content |= {"model_type": "my_own", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "mine.py").write_text("raise SystemExit('remote code ran')")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_pictures, "its chat template leaves pictures out of a question"),
        (text_alone, "transformers cannot load it as a vision-language model"),
        (foreign_code, "Code that comes with a folder is not run"),
    ],
)
def test_what_cannot_be_asked_about_pictures_is_refused(spoil, told, llava, prepared_data, tmp_path):
    folder = tmp_path / "spoiled"
    shutil.copytree(llava, folder)
    spoil(folder)
    assert_refused(ask(folder, prepared_data, tmp_path / "out"), 1, told, str(folder))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "more", "code", "told"),
    [
        ("no folder", (), 2, "there is no such folder, and it is no owner/name of the hub"),
        ("nobody/nothing", (), 1, "no such folder, and the hub does not give it"),
        (None, ("--template=llama3",), 2, "--template: with --hf a model is asked as its own folder says"),
        (None, ("--revision=main",), 2, "is a local folder, which has no revisions"),
    ],
)
def test_wrong_calls(model, more, code, told, llava, prepared_data, tmp_path):
    assert_refused(ask(model or llava, prepared_data, tmp_path / "out", *more), code, told)
