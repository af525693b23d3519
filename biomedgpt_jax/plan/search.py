"""Tries settings of a training against the memory and the time that they need; the best feasible first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import MeshShape
from biomedgpt_jax.plan.prediction import Prediction

# What of a layer is kept for the backward pass, from the least memory to the most.
REMAT = ("full", "dots", "minimal", "none")


@dataclass(frozen=True)
class Candidate:
    mesh: MeshShape  # without -1
    remat: str  # of the decoder, or of all layers
    tower_remat: str  # "" in a family that has no tower apart
    device_rows: int  # that a device works on at a time
    accumulate: int

    @property
    def rows(self) -> int:
        """Of a step, over all devices."""
        return self.device_rows * self.mesh.data * self.mesh.fsdp * self.accumulate

    def needs_no_less(self, other: "Candidate") -> bool:
        """Whether its memory is at least that of the other: as much of each layer is kept, of as many rows."""
        kept = _keeps_no_less(self.remat, other.remat) and _keeps_no_less(self.tower_remat, other.tower_remat)
        return (
            self.mesh == other.mesh
            and kept
            and self.device_rows >= other.device_rows
            and (self.accumulate > 1) >= (other.accumulate > 1)
        )


@dataclass(frozen=True)
class Tried:
    """`prediction` is None where it was not compiled; `reason` says why, or why it failed."""

    candidate: Candidate
    prediction: Prediction | None
    reason: str

    @property
    def fits(self) -> bool:
        return self.prediction is not None and self.prediction.fits

    @property
    def tokens_per_second(self) -> float:
        """0 where it is not predicted."""
        return self.prediction.speed.tokens_per_second if self.prediction and self.prediction.speed else 0.0


def candidates(
    meshes: Sequence[MeshShape],
    remats: Sequence[tuple[str, str]],
    device_rows: Sequence[int],
    rows: int,
) -> Iterator[Candidate]:
    """Small ones first. Accumulation keeps to `rows` in a step where the devices' rows divide them, else it is 1.

    Args:
        remats: of the decoder and of the tower, together.
    """
    for mesh in meshes:
        shards = mesh.data * mesh.fsdp
        for remat, tower_remat in remats:
            for each in sorted(device_rows):
                whole = shards * each
                yield Candidate(mesh, remat, tower_remat, each, rows // whole if rows % whole == 0 else 1)


def search(
    tries: Sequence[Candidate],
    evaluate: Callable[[Candidate], Prediction],
    advance: Callable[[int, int], None],
    more_time: Callable[[], bool],
) -> list[Tried]:
    """Evaluates each that can still fit, while there is time.

    Args:
        evaluate: raises UsageError for settings that cannot be, which becomes a row.
        advance: told (done, of how many).

    Returns:
        The fastest feasible first, then what does not fit, what cannot be, what was not tried.
    """
    done: list[Tried] = []
    too_big: list[Candidate] = []
    for number, candidate in enumerate(tries):
        smaller = next((each for each in too_big if candidate.needs_no_less(each)), None)
        if smaller is not None:
            reason = f"not compiled: {smaller.device_rows} rows a device with remat {smaller.remat} do not fit"
            done.append(Tried(candidate, None, reason))
        elif not more_time():
            done.append(Tried(candidate, None, "not compiled: the time was up"))
        else:
            done.append(_tried(candidate, evaluate))
            prediction = done[-1].prediction
            if prediction is not None and not prediction.fits:
                too_big.append(candidate)
        advance(number + 1, len(tries))
    return sorted(done, key=lambda each: (not each.fits, -each.tokens_per_second, each.prediction is None))


def tried_json(tried: Tried) -> dict[str, Any]:
    return {**asdict(tried), "rows": tried.candidate.rows}


def _keeps_no_less(policy: str, other: str) -> bool:
    """Policies that are not listed, such as offload, compare with themselves alone."""
    return policy == other or (policy in REMAT and other in REMAT and REMAT.index(policy) >= REMAT.index(other))


def _tried(candidate: Candidate, evaluate: Callable[[Candidate], Prediction]) -> Tried:
    try:
        prediction = evaluate(candidate)
    except UsageError as error:
        return Tried(candidate, None, str(error))
    return Tried(candidate, prediction, prediction.message)
