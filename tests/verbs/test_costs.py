"""What the MFU of a training log counts: full rows cost what `fit` counts of them."""

import pytest

from biomedgpt_jax.verbs import command_line, ledger
from biomedgpt_jax.verbs.families import family_of
from tests.command import ROOT, config

CAPTIONS = "biomedgpt.py:task=caption,size=base,rows=128"  # embeddings frozen, open answers
TEXTS = "biomedgpt.py:task=summarise,size=tiny,rows=8"  # no pictures
PACKED = "llama3_med.py:stage=2,tower=tiny-clip,decoder=smoke,scales=56"


def planned(name, monkeypatch, *options):
    """Costs and workload of a configuration."""
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    monkeypatch.syspath_prepend(str(ROOT / "configs"))
    found = command_line.parse(ledger, [config(name), *options]).config
    family = family_of(found)
    spec = family.spec(found)
    arguments = (found, spec, family.trainable(found, spec))
    return found, family.costs(*arguments), family.workload(*arguments)


@pytest.mark.parametrize("name", [CAPTIONS, TEXTS])
def test_full_rows_of_pairs_cost_what_fit_counts(name, monkeypatch):
    found, costs, workload = planned(name, monkeypatch)
    each, data = costs.flops, found.data
    row = data.source_tokens * each["source_tokens"] + data.target_tokens * each["target_tokens"] + each["images"]
    assert found.train.batch_rows * row == pytest.approx(workload.flops)
    assert (each["images"] > 0) == data.pictures
    assert costs.peak_flops is None  # a CPU's is not known, so its log shows no MFU


def test_the_logits_of_a_closed_list_are_not_counted(monkeypatch):
    _, opened, _ = planned(CAPTIONS, monkeypatch)
    _, closed, _ = planned(CAPTIONS, monkeypatch, "--config.data.answers=train")
    # Forward, and backward into the hidden states alone: the embeddings are frozen.
    logits = 2 * 768 * 59_520 * 2
    assert opened.flops["target_tokens"] - closed.flops["target_tokens"] == pytest.approx(logits)
    assert opened.flops["images"] == closed.flops["images"]


def test_full_packed_rows_cost_what_fit_counts(monkeypatch):
    found, costs, workload = planned(PACKED, monkeypatch)
    row = found.data.row_tokens * costs.flops["tokens"] + found.data.image_slots * costs.flops["images"]
    assert found.train.batch_rows * row == pytest.approx(workload.flops)
