"""`biomedgpt synth` against a server on this machine that speaks both protocols and breaks in all ways."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from biomedgpt_jax.data.layouts import llava_files, own_dataset
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.source import PreparedSplit
from tests.command import ROOT, Called, assert_refused, biomedgpt, config, talk
from tests.synth.captions import CAPTIONS, MENTION, prepare_captions
from tests.synth.model_server import Fault, Model, caption_of, serve

KEY = "sk-secret-of-the-tests"
PATHS = {"anthropic": "", "openai": "/v1"}
QUICK = ("--config.limits.first_seconds=0.01", "--config.limits.longest_seconds=0.05")
ONE = ("--config.synth.prompts=('description_v1',)", "--config.limits.concurrency=1")
PRICES = ("--config.prices.input=3.0", "--config.prices.output=15.0")
BOTH = pytest.mark.parametrize("provider", PATHS)


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> Path:
    return prepare_captions(tmp_path_factory.mktemp("captions"))


@pytest.fixture
def model(monkeypatch):
    """A model, its `address`, and the keys in the environment."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Model()
    with serve(made) as address:
        made.address = address
        yield made


def arguments(provider: str, data: Path, out: Path, address: str, *options: str) -> tuple[str, ...]:
    """A call of the verb."""
    url = f"--config.endpoint.url={address}{PATHS[provider]}"
    asked = config(f"synth.py:data={data},provider={provider},model=tiny")
    return ("synth", asked, url, f"--out={out}", *QUICK, *options)


def journal(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def rejects(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]


def assert_private(called: Called) -> None:
    """Neither text of the data nor the key is shown."""
    shown = called.out + called.err
    assert KEY not in shown and not any(caption[:30] in shown for caption in CAPTIONS)


@BOTH
def test_rows_are_data_with_images_and_provenance(provider, captions, model, tmp_path):
    call = arguments(provider, captions, tmp_path / "out", model.address)
    called = biomedgpt(*call)
    assert called.code == 0, called
    assert_private(called)
    made, source = PreparedSplit(tmp_path / "out" / "prepared", "train"), PreparedSplit(captions, "train")
    assert len(made) == 3 * len(source) and made.num_images == source.num_images
    for number in range(len(made)):
        row, origin = made[number], source[number // 3]
        assert [made.image(image) for image in row.images] == [source.image(image) for image in origin.images]
        assert (row.meta["source_id"], row.meta["case"]) == (origin.id, origin.meta["case"])
        assert row.meta["synth_request"] == f"req-{row.meta['synth_key']}-1"
        assert (row.meta["synth_model"], row.meta["synth_model_asked"]) == ("tiny-snapshot", "tiny")
        assert row.meta["synth_prompt"] == f"{row.meta['synth_kind']}_v1" and row.meta["synth_time"].startswith("20")
        assert row.meta["synth_input_tokens"] > 100 and row.meta["synth_output_tokens"] > 10
    assert [len(made[number].turns) for number in range(3)] == [3, 1, 1]
    assert MENTION in str(model.asked) and made.manifest.access == "local"
    asked = len(model.asked)
    assert biomedgpt(*call).code == 0 and len(model.asked) == asked
    assert model.answered.total() == 18 and report(tmp_path / "out")["spent"]["answers"] == 18
    again = biomedgpt(
        "prepare",
        config("data/own.py:name=again,train=train.jsonl"),
        f"--config.source={tmp_path / 'out' / 'rows'}",
        "--config.own.images=images",
        "--config.workers=1",
        f"--out={tmp_path / 'again'}",
    )
    assert again.code == 0, again
    prepared = PreparedSplit(tmp_path / "again", "train")
    assert [prepared[n] for n in range(18)] == [made[n] for n in range(18)]


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_a_breaking_endpoint_is_asked_again(provider, stream, captions, model, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_LOG", "debug")
    model.faults = [
        Fault(429, {"retry-after": "0.4"}, "rate_limit_error"),
        Fault(500),
        Fault(529, error="overloaded_error"),
        Fault(cut=40),
        Fault(cut=-20),
        Fault(raw=b"<html>busy</html>"),
        Fault(raw=b'{"choices": [], "content": null}'),
        Fault(seconds=0.7),
    ]
    options = (f"--config.endpoint.stream={stream}", "--config.endpoint.timeout=0.5", "--config.limits.attempts=9")
    start = time.monotonic()
    called = biomedgpt(*arguments(provider, captions, tmp_path / "out", model.address, *ONE, *options))
    assert called.code == 0, called
    assert_private(called)
    assert time.monotonic() - start > 0.9  # the pause that it asked for, and the slow answer
    assert report(tmp_path / "out")["tasks"]["accepted"] == 6
    lines = Counter(line["what"] for line in journal(tmp_path / "out"))
    assert lines == {"sent": 14, "answer": 6, "unpaid": 3, "lost": 5}
    assert report(tmp_path / "out")["spent"]["doubtful"] == 5
    assert "met 1 times: HTTP 429 rate_limit_error" in called.err
    told = [line["told"] for line in journal(tmp_path / "out") if "told" in line]
    assert len(told) == 3 and all("description" in words for words in told)
    assert KEY not in (tmp_path / "out" / "journal.jsonl").read_text()


def test_answers_that_fail_a_check_are_asked_again_and_kept(captions, model, tmp_path):
    new = json.dumps({"question": "What is it?", "answer": f"{CAPTIONS[0]} There is a pneumothorax too."})
    model.faults = [
        *(Fault(text=new) for _ in range(3)),  # row 0, all tries
        *(Fault(text="no JSON"), Fault()),  # row 1, good at the second try
        Fault(text='{"skip": "too little"}'),  # row 2
        *(Fault(text="", stop="refusal"), Fault(text='{"question": "What', stop="max_tokens")),  # row 3
    ]
    called = biomedgpt(*arguments("anthropic", captions, tmp_path / "out", model.address, *ONE))
    assert called.code == 0, called
    assert_private(called)
    found = {each["id"]: each for each in rejects(tmp_path / "out")}
    assert list(found) == ["r0-description", "r2-description"]
    assert found["r0-description"]["answers"] == [new] * 3
    assert found["r0-description"]["faults"][0] == {"code": "new-terms", "found": ["pneumothorax"]}
    told = report(tmp_path / "out")
    assert told["rejected"] == {"new-terms": 1, "skip": 1}
    assert told["again"] == {"not-json": 1, "refusal": 1, "cut": 1}
    assert told["tasks"] == {"accepted": 4, "duplicates": 0, "open": 0, "waiting": 0, "refused": 2}
    texts = [body["messages"][-1]["content"] for *_, body in model.asked]
    assert "earlier answer" not in texts[0] and "what the given text does not say (pneumothorax)" in texts[1]
    tries = [row.meta["synth_try"] for row in PreparedSplit(tmp_path / "out" / "prepared", "train").samples(range(4))]
    assert tries == [2, 3, 1, 1]
    # Other checks judge the same answers anew.
    asked = len(model.asked)
    wide = biomedgpt(
        *arguments("anthropic", captions, tmp_path / "out", model.address, *ONE, "--config.checks.tries=2")
    )
    assert wide.code == 0 and len(model.asked) == asked
    assert report(tmp_path / "out")["tasks"]["accepted"] == 3


def test_the_budget_is_kept_and_the_same_command_goes_on(captions, model, tmp_path):
    def cost() -> float:
        answers = [line["reply"] for line in journal(tmp_path / "out") if line["what"] == "answer"]
        return sum(3e-6 * each["input_tokens"] + 15e-6 * each["output_tokens"] for each in answers)

    model.seconds = 0.02
    options = ("--config.synth.prompts=('description_v1',)", "--config.endpoint.max_tokens=200", *PRICES)
    call = arguments("openai", captions, tmp_path / "out", model.address, *options)
    called = biomedgpt(*call, "--budget=0.015")
    assert called.code == 1 and "the budget allows no other request" in called.err, called
    assert 0 < cost() <= 0.015 and 0 < model.answered.total() < 6
    assert report(tmp_path / "out")["tasks"]["open"] == 6 - model.answered.total()
    assert report(tmp_path / "out")["money"] == pytest.approx(cost())
    assert PreparedSplit(tmp_path / "out" / "prepared", "train").manifest.splits["train"].samples > 0
    asked = len(model.asked)
    assert biomedgpt(*call, "--budget=0.001").code == 1 and len(model.asked) == asked
    assert biomedgpt(*call, "--budget=1").code == 0
    assert model.answered.total() == 6 and set(model.answered.values()) == {1}


def test_a_killed_run_goes_on_and_pays_for_no_answer_twice(captions, model, tmp_path):
    out = tmp_path / "out"
    call = arguments("anthropic", captions, out, model.address, "--config.limits.concurrency=2")
    model.seconds = 0.15
    process = subprocess.Popen([sys.executable, "-m", "biomedgpt_jax", *call], cwd=ROOT, stderr=subprocess.DEVNULL)
    while model.answered.total() < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal(out)
    kept = {line["key"] for line in before if line["what"] == "answer"}
    in_flight = {line["key"] for line in before if line["what"] == "sent"} - kept
    assert 3 <= len(kept) < 18 and 0 < len(in_flight) <= 2
    with (out / "journal.jsonl").open("ab") as file:
        file.write(b'{"what": "answer", "ke')  # as a kill within a write would leave it
    model.seconds = 0.0
    alone = biomedgpt(*call, "--config.limits.resend=False", "--config.synth.rows=6")
    assert alone.code == 0, alone
    assert set(model.answered.values()) == {1}
    assert report(out)["tasks"]["waiting"] == len(in_flight)
    assert biomedgpt(*call).code == 0
    assert report(out)["tasks"] == {"accepted": 18, "duplicates": 0, "open": 0, "waiting": 0, "refused": 0}
    twice = {key for key, count in model.answered.items() if count > 1}
    assert twice <= in_flight and max(model.answered.values()) <= 2
    assert report(out)["spent"]["doubtful"] == len(in_flight)
    assert len([key for key, *_ in model.asked if key in kept]) == len(kept)


@BOTH
def test_batches_are_written_sent_fetched_and_read(provider, captions, model, tmp_path):
    out = tmp_path / "out"
    call = arguments(provider, captions, out, model.address, *ONE, *PRICES)
    assert biomedgpt(*call, "--batch=write", "--budget=1").code == 0
    lines = [json.loads(line) for line in (out / "batches" / "batch-0001.jsonl").read_text().splitlines()]
    fields = {"custom_id", "params"} if provider == "anthropic" else {"custom_id", "method", "url", "body"}
    assert len(lines) == 6 and {frozenset(line) for line in lines} == {frozenset(fields)}
    body = lines[0].get("params") or lines[0]["body"]
    assert caption_of(body) == CAPTIONS[0] and body["max_tokens"] == 1500 and body["model"] == "tiny"
    # What stands in a file is not asked otherwise, nor written again.
    assert biomedgpt(*call).code == 0 and not model.asked
    assert report(out)["tasks"]["waiting"] == 6
    assert "batch-0002" not in biomedgpt(*call, "--batch=write").out
    sent = biomedgpt(*call, "--batch=send")
    assert sent.code == 0 and (out / "batches" / "batch-0001.id").read_text() == "batch-1"
    fetched = biomedgpt(*call, "--batch=fetch")
    assert fetched.code == 0 and "6 answers, 0 known before" in fetched.out, fetched
    assert report(out)["tasks"]["accepted"] == 6 and set(model.answered.values()) == {1}
    results = out / "batches" / "batch-0001.results.jsonl"
    results.write_text(results.read_text() + '{"custom_id": "other-1"}\nnothing\n')
    again = biomedgpt(*call, "--batch=read", f"--results={results}")
    assert "0 answers, 6 known before" in again.out and "2 lines left out" in again.out
    assert report(out)["spent"]["answers"] == 6


@BOTH
def test_failures_in_batch_results_are_told_apart(provider, captions, model, tmp_path):
    out = tmp_path / "out"
    call = arguments(provider, captions, out, model.address, *ONE)
    assert biomedgpt(*call, "--batch=write").code == 0
    keys = [json.loads(line)["custom_id"] for line in (out / "batches" / "batch-0001.jsonl").read_text().splitlines()]

    def errored(kind: str) -> dict:
        return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": CAPTIONS[0]}}}

    told = {
        "anthropic": [{"result": {"type": "expired"}}, {"result": errored("invalid_request_error")}],
        "openai": [
            {"response": None, "error": {"code": "batch_expired", "message": "late"}},
            {"response": {"status_code": 400, "request_id": "r", "body": {}}, "error": None},
        ],
    }[provider]
    lines = [json.dumps({"custom_id": key, **each}) for key, each in zip(keys, told, strict=False)]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    read = biomedgpt(*call, "--batch=read", f"--results={tmp_path / 'results.jsonl'}")
    assert "0 answers, 0 known before, 1 to be asked again, 1 refused" in read.out, read
    assert_private(read)
    assert report(out)["tasks"] == {"accepted": 0, "duplicates": 0, "open": 1, "waiting": 4, "refused": 1}
    (out / "batches" / "batch-0001.jsonl").unlink()  # given up
    assert biomedgpt(*call).code == 0
    assert report(out)["tasks"]["accepted"] == 6


@BOTH
def test_images_go_to_models_that_see(provider, captions, model, tmp_path):
    options = (*ONE, "--config.synth.send_images=True", "--config.synth.rows=1")
    assert biomedgpt(*arguments(provider, captions, tmp_path / "out", model.address, *options)).code == 0
    first, second = model.asked[0][-1]["messages"][-1]["content"]
    source = PreparedSplit(captions, "train")
    told = CAPTIONS.index(caption_of(model.asked[0][-1]))
    data = base64.b64encode(source.image(told)).decode()
    assert data in json.dumps(first) and "image/png" in json.dumps(first)
    assert CAPTIONS[told] in second["text"]


def test_the_same_image_and_words_are_kept_once(captions, model, tmp_path):
    (tmp_path / "0.png").write_bytes(PreparedSplit(captions, "train").image(0))
    rows = [
        {"id": f"s{n}", "image": "0.png", "conversations": talk("?", CAPTIONS[0]), "task": "caption"} for n in range(2)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = tmp_path / "data"
    prepare_dataset(own_dataset("two", llava_files({"train": "train.jsonl"})), data, source_dir=tmp_path)
    assert biomedgpt(*arguments("openai", data, tmp_path / "out", model.address)).code == 0
    assert len(model.asked) == 6
    assert report(tmp_path / "out")["tasks"]["accepted"] == 3 and report(tmp_path / "out")["tasks"]["duplicates"] == 3
    assert [each["faults"][0] for each in rejects(tmp_path / "out")][1] == {
        "code": "duplicate",
        "found": ["s0-description"],
    }
    # A row that stands in two folders is asked once.
    both = arguments("openai", f"{captions}+{captions}/.", tmp_path / "both", model.address, *ONE)
    assert biomedgpt(*both).code == 0
    assert len(model.asked) == 12 and report(tmp_path / "both")["tasks"]["accepted"] == 6


def test_credentialed_data_stays_here(captions, model, tmp_path):
    copied = tmp_path / "mimic"
    subprocess.run(["cp", "-r", captions, copied], check=True)
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"access": "local"', '"access": "credentialed"'))
    call = arguments("openai", copied, tmp_path / "out", "http://models.example.org", *ONE)
    assert_refused(biomedgpt(*call), 1, "credentialed", "models.example.org", "endpoint.credentialed_host")
    assert_refused(biomedgpt(*call, "--batch=write"), 1, "credentialed")
    stated = biomedgpt(*call, "--config.endpoint.credentialed_host=models.example.org", "--estimate")
    assert stated.code == 0 and "see whether its terms allow that" in stated.err
    assert biomedgpt(*arguments("openai", copied, tmp_path / "here", model.address, *ONE)).code == 0
    assert PreparedSplit(tmp_path / "here" / "prepared", "train").manifest.access == "credentialed"


def test_what_is_wrong_is_told_at_once(captions, model, tmp_path, monkeypatch):
    def call(*options: str, provider: str = "anthropic") -> Called:
        return biomedgpt(*arguments(provider, captions, tmp_path / "out", model.address, *ONE, *options))

    model.faults = [Fault(401, error="authentication_error")]
    wrong = call()
    assert wrong.code == 1 and "HTTP 401 authentication_error; is ANTHROPIC_API_KEY right?" in wrong.err, wrong
    model.faults = [Fault(429, error="insufficient_quota")]
    assert "no money or quota left" in call(provider="openai").err
    model.faults = [Fault(307, {"location": "http://models.example.org/v1/messages"})]
    assert "a way to another address" in call().err
    assert len(model.asked) == 3
    model.faults = [Fault(400, error="invalid_request_error") for _ in range(20)]
    assert call("--config.synth.rows=2").code == 0
    assert report(tmp_path / "out")["rejected"] == {"endpoint": 2}
    model.faults = []
    assert call("--config.synth.rows=2").code == 0 and report(tmp_path / "out")["tasks"]["accepted"] == 2
    asked = len(model.asked)
    for options, told in (
        (["--budget=5"], "--budget needs prices"),
        (["--config.prices.input=1.0"], "give both"),
        (["--config.endpoint.provider=azure"], "expected one of anthropic, openai"),
        (["--config.synth.language=Latin"], "expected one of English, Chinese"),
        (["--config.checks.turns=(5, 3)"], "a least and a most"),
        (["--config.limits.concurrency=0"], "more than 0"),
        (["--batch=read"], "--results=FILE"),
        (["--config.endpoint.model="], "model is empty"),
        (["--config.synth.prompts=('description_v1', 'description_v1')"], "none twice"),
    ):
        assert_refused(call(*options), 2, told)
    assert_refused(
        call("--config.synth.prompts=('poem_v1',)"), 1, "found conversation_v1, description_v1, reasoning_v1"
    )
    assert_refused(call("--config.endpoint.url=127.0.0.1:80"), 1, "expected an address")
    assert_refused(call("--batch=read", "--results=none.jsonl"), 1, "none.jsonl: cannot be read")
    assert len(model.asked) == asked
    monkeypatch.delenv("OPENAI_API_KEY")
    away = arguments("openai", captions, tmp_path / "away", "http://models.example.org", *ONE)
    assert_refused(biomedgpt(*away), 2, "OPENAI_API_KEY", "not set")
    lines = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
    (tmp_path / "out" / "journal.jsonl").write_text("\n".join(["{}", *lines]) + "\n")
    assert_refused(call(), 1, "journal.jsonl line 1 is damaged", "paid for")


def test_an_endpoint_that_is_down_ends_the_run(captions, model, tmp_path):
    with serve(Model()) as address:
        pass
    options = ("--config.limits.attempts=2", "--config.limits.concurrency=2")
    called = biomedgpt(*arguments("openai", captions, tmp_path / "out", address, *options))
    assert called.code == 1 and "10 requests in a row had no answer" in called.err, called
    assert "no connection (ConnectError)" in called.err
    few = biomedgpt(*arguments("openai", captions, tmp_path / "few", address, *options, "--config.synth.rows=1"))
    assert few.code == 1 and "3 requests had no answer" in few.err, few
    assert report(tmp_path / "out")["tasks"]["open"] == 18 and report(tmp_path / "out")["spent"]["doubtful"] == 0


def test_the_package_is_needed_only_to_ask(captions, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anthropic", None)
    call = arguments("anthropic", captions, tmp_path / "out", "http://127.0.0.1:9", *ONE)
    assert biomedgpt(*call, "--estimate", *PRICES).code == 0
    assert_refused(biomedgpt(*call), 1, "pip install 'biomedgpt-jax[synth]'")
