"""The journal, the rates, the gauge and the purse, without an endpoint."""

import threading
import time

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.synth import rates as pacing
from biomedgpt_jax.synth.costs import MESSAGE_TOKENS, Gauge, Prices, Purse, money
from biomedgpt_jax.synth.journal import Journal, Reply, State
from biomedgpt_jax.synth.rates import Rates

REPLY = Reply("text\n\u00e9", "end", "m", "r", 70, 20, "h", "t")


def test_a_journal_knows_after_a_kill_what_it_knew_before(tmp_path):
    with Journal(tmp_path) as journal:
        for key in ("a-1", "b-1", "c-1", "d-1", "e-1"):
            journal.sent(key, 100, 50)
        journal.answer("a-1", REPLY)
        journal.unanswered("b-1", State.UNPAID, "busy")
        journal.unanswered("c-1", State.LOST, "cut")
        journal.unanswered("d-1", State.FAILED, "HTTP 400", "words")
        journal.sent("c-1", 100, 50)
        journal.answer("c-1", REPLY)
        journal.batched({"f-1": (10, 5)}, "batch-0001.jsonl")
        journal.answer("a-1", Reply("other", "end", "m", "r", 1, 1, "h", "t"))  # told twice
        before = vars(journal.spent)
    with journal.path.open("ab") as file:
        file.write(b'{"what": "answer", "key": "b-1", "reply": {"te')
    with Journal(tmp_path) as journal:
        assert vars(journal.spent) == before
        assert before == dict(
            answers=2, input_tokens=140, output_tokens=40, doubtful=3, doubtful_input=210, doubtful_output=105
        )
        states = {key: journal.state(f"{key}-1") for key in "abcdefg"}
        assert journal.reply("a-1") == REPLY and journal.reply("c-1") == REPLY
        journal.answer("e-1", REPLY)
        assert journal.batch("f-1") == "batch-0001.jsonl" and journal.keys(State.BATCHED) == ["f-1"]
    assert list(states.values()) == [
        State.ANSWER, State.UNPAID, State.ANSWER, State.UNPAID, State.SENT, State.BATCHED, State.NEW,
    ]  # fmt: skip
    with Journal(tmp_path) as journal:
        assert journal.reply("e-1") == REPLY and journal.spent.doubtful == 2
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    with pytest.raises(DataError, match="line 2 is damaged"):
        Journal(tmp_path)


def test_rates_hold_in_any_minute(monkeypatch):
    monkeypatch.setattr(pacing, "MINUTE", 0.3)
    rates = Rates(requests=2, tokens=0, stop=threading.Event())
    start = time.monotonic()
    times = [rates.wait(5) and time.monotonic() - start for _ in range(5)]
    assert times[1] < 0.2 and 0.3 <= times[2] < 0.5 and 0.6 <= times[4] < 0.9
    rates = Rates(requests=0, tokens=100, stop=threading.Event())
    start = time.monotonic()
    entry = rates.wait(90)
    assert entry is not None
    rates.settle(entry, 10)
    assert rates.wait(90) and time.monotonic() - start < 0.2
    assert rates.wait(500) and time.monotonic() - start >= 0.3  # alone
    rates.hold(60.0)
    threading.Timer(0.1, rates.stop.set).start()
    assert rates.wait(1) is None and time.monotonic() - start < 2


def test_the_most_that_a_request_can_be_shrinks_to_what_was_seen():
    gauge = Gauge(image_tokens=1000)
    assert gauge.most(400, 1, 2) == 400 + 1 + 2 * MESSAGE_TOKENS + 2000
    gauge.learn(400, 2, 2000 + 100)
    assert gauge.most(400, 1, 0) == 110 + 1 + 2 * MESSAGE_TOKENS
    gauge.learn(400, 0, 800)
    assert gauge.most(400, 1, 0) == 400 + 1 + 2 * MESSAGE_TOKENS


def test_a_purse_waits_for_requests_in_flight_and_never_pays_more(tmp_path):
    prices = Prices(1.0, 2.0, "EUR")
    with Journal(tmp_path) as journal:
        purse = Purse(journal, prices, 250e-6)
        assert purse.send(100, 50, lambda: journal.sent("a-1", 100, 50))
        results: list[bool] = []
        other = threading.Thread(
            target=lambda: results.append(purse.send(100, 50, lambda: journal.sent("b-1", 100, 50)))
        )
        other.start()
        time.sleep(0.05)
        assert not results and journal.state("b-1") is State.NEW
        journal.answer("a-1", Reply("", "end", "m", "r", 20, 10, "h", "t"))
        purse.ended()
        other.join()
        assert results == [True] and money(journal.spent, prices) == pytest.approx(240e-6)
        journal.unanswered("b-1", State.LOST, "cut")  # it may have been paid
        purse.ended()
        assert not purse.send(10, 5, lambda: journal.sent("c-1", 10, 5)) and purse.empty
        assert journal.state("c-1") is State.NEW
