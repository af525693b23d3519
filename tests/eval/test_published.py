"""Published figures beside ours: what they are, and what keeps them apart."""

from dataclasses import replace

import pytest

from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.eval.compare import load
from biomedgpt_jax.eval.measured import Origin, measured
from biomedgpt_jax.eval.protocols import PROTOCOLS, STRICT_V1
from biomedgpt_jax.eval.published import ALL, Measured, beside, differences, family
from biomedgpt_jax.eval.published_figures import FIGURES, TUNED, ZERO
from biomedgpt_jax.eval.runner import write
from biomedgpt_jax.eval.summary import summarise

OURS = Measured(
    results="vqa_rad_official_test/llava-med_v1",
    data="vqa_rad_official",
    split="test",
    reworded=False,
    protocol="llava-med/v1",
    task="vqa",
    questions="closed",
    whole=False,
    n=272,
    part=False,
    score="accuracy",
    headline=True,
    mean=0.5,
    low=None,
    high=None,
    baseline=None,
    truncated=0,
)


def figure(model, data, questions, setting):
    (found,) = [f for f in FIGURES if (f.model, f.data, f.questions, f.setting) == (model, data, questions, setting)]
    return found


def test_figures_name_what_there_is():
    families = {family(name) for name in DATASETS}
    for each in FIGURES:
        assert each.data in families, each
        assert set(each.exact) <= DATASETS.keys(), each
        assert each.source and 0 < each.value <= 200, each
        assert bool(each.protocol) == bool(each.score), each
        assert not each.protocol or each.protocol in PROTOCOLS, each
    assert len(set(FIGURES)) == len(FIGURES)


def test_figures_of_the_tables():
    from_llava = "LLaVA-Med, from LLaVA"
    assert [figure(from_llava, data, "open", TUNED).value for data in ("vqa_rad", "slake", "path_vqa")] == [
        61.52, 83.08, 37.95,
    ]  # fmt: skip
    closed = figure(from_llava, "vqa_rad", "closed", TUNED)
    assert (closed.value, closed.n, closed.protocol, closed.score) == (84.19, 272, "llava-med/v1", "accuracy")
    assert figure("LLaVA-Med, BiomedCLIP, 60K-IM", "slake", "closed", ZERO).value == 54.33
    assert figure("GPT-4V", "vqa_rad", ALL, ZERO).margin == 6.7
    # Wrong answers over all 272 closed questions, as the facts have it.
    assert round(229 / 272 * 100, 2) == closed.value


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"protocol": "strict/v1"}, "other protocol (llava-med/v1 there)"),
        ({"score": "f1"}, "other score (accuracy there)"),
        ({"data": "vqa_rad"}, "other split (vqa_rad_official there)"),
        ({"split": "validation"}, "other split (test there, validation here)"),
        ({"n": 251}, "272 questions there, 251 here"),
        ({"part": True, "n": 20}, "only a part of the split here"),
        ({"reworded": True}, "questions in another wording here"),
    ],
)
def test_one_difference_is_enough(change, reason):
    closed = figure("LLaVA-Med, from LLaVA", "vqa_rad", "closed", TUNED)
    assert differences(closed, replace(OURS, **change)) == ((reason,) if reason else ())


def test_what_is_not_known_of_a_figure_keeps_it_apart():
    huatuo = figure("HuatuoGPT-Vision-34B", "vqa_rad", "closed", "not stated")
    assert differences(huatuo, OURS) == (
        "no protocol of ours computes its accuracy of closed questions",
        "its test questions are not known",
    )
    memory = figure("BiomedGPT-Base", "cbis_ddsm_mass", ALL, TUNED)
    assert any("uncertain: taken from memory" in reason for reason in differences(memory, OURS))


def test_each_figure_stands_beside_the_nearest_score():
    others = [
        replace(OURS, data="vqa_rad", n=200),
        replace(OURS, protocol="strict/v1"),
        OURS,
        replace(OURS, task="organ", n=272),
    ]
    found = beside(FIGURES, others)
    assert {each.figure.data for each in found} == {"vqa_rad"}
    closed = [each for each in found if (each.figure.model, each.figure.questions) == ("LLaVA-Med 13B", "closed")]
    assert [(each.ours, each.comparable) for each in closed] == [(OURS, True)]
    # No open questions were scored, nor all together.
    assert not any(each.figure.questions in ("open", ALL) and each.ours for each in found)
    missing = next(each for each in found if each.figure.questions == ALL)
    assert missing.apart == ("no all questions were scored together here",)


def test_all_questions_of_a_task_are_scored_together(tmp_path, answered, train):
    rows = answered("yes", "yes", "no", "liver", "wrong")
    write(str(tmp_path), summarise(STRICT_V1, rows, train, "train"), rows, {})
    found = measured(load(str(tmp_path)), Origin("a/strict_v1", "slake", "test", part=False))
    shown = {(row.questions, row.n): row for row in found if row.headline}
    assert {key: row.whole for key, row in shown.items()} == {("closed", 3): False, ("open", 2): False, (ALL, 5): True}
    right = {key[0]: round(row.mean * row.n) for key, row in shown.items()}
    assert right[ALL] == right["open"] + right["closed"] == 3
    baselines = {key[0]: row.n * (row.baseline or 0.0) for key, row in shown.items()}
    assert baselines[ALL] == pytest.approx(baselines["open"] + baselines["closed"]) and baselines[ALL] > 0
    assert {row.score for row in found if not row.headline} >= {"f1", "recall"}
