"""The order in which settings are tried, and what is not tried because it cannot fit."""

import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import MeshShape
from biomedgpt_jax.plan.compile import needed_bytes
from biomedgpt_jax.plan.prediction import Prediction, Speed
from biomedgpt_jax.plan.search import Candidate, candidates, search

FSDP = MeshShape(data=1, fsdp=4, tensor=1, context=1)
ROOM = {"full": 4, "dots": 2, "minimal": 2, "none": 1}  # rows of a device that fit


def predicted(candidate: Candidate) -> Prediction:
    """The more is kept the faster, as long as it fits."""
    fits = candidate.device_rows <= ROOM[candidate.remat]
    rate = 100.0 * candidate.device_rows * (1 + list(ROOM).index(candidate.remat) / 10)
    speed = Speed(0.0, 0.0, 0.0, 0.0, 1.0, rate, 0.0, 0.0, 0.0, {}) if fits else None
    return Prediction(fits, None, None, (), speed, 0.0, 0.0, "" if fits else "too big")


def test_best_feasible_first_and_what_is_bigger_than_too_big_is_not_compiled():
    tries = list(candidates([FSDP], [("full", ""), ("dots", ""), ("none", "")], [1, 2, 4, 8], rows=16))
    compiled = []

    def evaluate(candidate: Candidate) -> Prediction:
        compiled.append((candidate.remat, candidate.device_rows))
        return predicted(candidate)

    found = search(tries, evaluate, lambda done, of: None, lambda: True)
    assert [(each.candidate.remat, each.candidate.device_rows) for each in found if each.fits] == [
        *(("full", 4), ("dots", 2), ("full", 2), ("none", 1), ("dots", 1), ("full", 1)),
    ]
    # 8 rows of "full" do not fit, so no other policy is tried with 8; 4 of "dots" exclude 4 of "none".
    assert ("full", 8) in compiled and ("dots", 8) not in compiled and ("none", 4) not in compiled
    assert len(found) == len(tries)
    assert all(each.reason for each in found if not each.fits)


def test_the_tower_keeps_too():
    more, less = (next(candidates([FSDP], [("full", tower)], [2], rows=8)) for tower in ("minimal", "full"))
    assert more.needs_no_less(less) and not less.needs_no_less(more)
    offloaded = next(candidates([FSDP], [("full", "offload")], [4], rows=16))
    assert not offloaded.needs_no_less(less) and offloaded.needs_no_less(offloaded)


def test_accumulation_keeps_to_the_rows_of_a_step():
    tries = list(candidates([FSDP], [("full", "")], [1, 2, 3, 8], rows=16))
    assert [(each.device_rows, each.accumulate, each.rows) for each in tries] == [
        *((1, 4, 16), (2, 2, 16), (3, 1, 12), (8, 1, 32)),
    ]


def test_settings_that_cannot_be_and_want_of_time_are_rows():
    tries = list(candidates([FSDP], [("full", "")], [1, 2, 4], rows=4))
    times = iter([True, True, False])

    def evaluate(candidate: Candidate) -> Prediction:
        if candidate.device_rows == 2:
            raise UsageError("no such thing")
        return predicted(candidate)

    found = search(tries, evaluate, lambda done, of: None, lambda: next(times))
    assert [each.reason for each in found] == ["", "no such thing", "not compiled: the time was up"]


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 18.5G of 15.75G hbm. Exceeded", 18.5 * 2**30),
        ("the total memory required for HLO temporaries (512.00M) exceeds available HBM (15.75G).", 2**29),
        ("RESOURCE_EXHAUSTED: something else", None),
    ],
)
def test_bytes_that_a_compiler_asks_for(message, needed):
    assert needed_bytes(message) == needed
