"""Which samples an instruction mixture takes, in which wording, and what it leaves out and why."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.instructions.reword import fitting, instructions_for, pick, reword
from biomedgpt_jax.data.lint.images import look
from biomedgpt_jax.data.lint.material import Part
from biomedgpt_jax.data.mixing.contamination import contaminated
from biomedgpt_jax.data.mixing.repeats import Place, repeated
from biomedgpt_jax.data.mixing.settings import MixSettings, open_parts

AS_IT_STANDS = 0  # the wording of a conversation
Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True)
class Dropped:
    """A sample that may not be mixed. `because`: the evaluation set that knows it, or the earlier sample it repeats."""

    set: str
    id: str
    reason: str
    because: str


@dataclass(frozen=True)
class Chosen:
    """A sample of a part in a wording of its task."""

    part: int
    number: int
    wording: int


@dataclass(frozen=True)
class Plan:
    """`chosen` in the order in which they are written; `dropped` in the order of the sets."""

    settings: MixSettings
    parts: tuple[Part, ...]
    scored: tuple[Part, ...]
    chosen: tuple[Chosen, ...]
    dropped: tuple[Dropped, ...]

    @property
    def identity(self) -> str:
        """Changes with what is mixed, in which wording and order."""
        files = [[f.sha256 for f in part.split.manifest.splits[part.split.split].files] for part in self.parts]
        return hashlib.sha256(repr((files, [part.name for part in self.parts], self.chosen)).encode()).hexdigest()


def plan_mixture(settings: MixSettings, advance: Progress) -> Plan:
    """Reads all texts, and with `settings.near` looks at all pictures.

    Raises:
        DataError: data that is missing or lacks what its task needs, settings that cannot be met, nothing left.
    """
    parts, scored = open_parts(settings)
    if settings.near:
        for part in (*parts, *scored):
            tell = _telling(advance, f"images of {part.name}")
            part.pictures = look(part.split, settings.threads, tell)
    dropped: dict[Place, tuple[str, str]] = {}
    wordings: dict[Place, int] = {}
    for n, part in enumerate(parts):
        known = contaminated(part, scored)
        for number, (place, wording) in enumerate(_wordings(n, part, settings.seed)):
            if number in known:
                dropped[place] = known[number]
            elif isinstance(wording, str):
                dropped[place] = (wording, "")
            else:
                wordings[place] = wording
        advance(f"compare {part.name}", len(part.samples), len(part.samples))
    again = repeated(parts, list(wordings))
    dropped |= again
    left = [[place for place in wordings if place[0] == n and place not in again] for n in range(len(parts))]
    _check_left(parts, left, dropped)
    taken = _draw(settings, parts, left)
    chosen = tuple(Chosen(*place, wordings[place]) for place in taken)
    listed = tuple(Dropped(parts[n].name, parts[n].samples[i].id, *dropped[n, i]) for n, i in sorted(dropped))
    return Plan(settings, tuple(parts), tuple(scored), chosen, listed)


def _telling(advance: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, of: advance(what, done, of)


def _wordings(n: int, part: Part, seed: int) -> list[tuple[Place, int | str]]:
    """Of each sample its wording, or why it can have none. DataError where one lacks what its task needs."""
    found: list[tuple[Place, int | str]] = []
    for number, sample in enumerate(part.samples):
        if not sample.turns or any(not turn.answer.strip() for turn in sample.turns):
            found.append(((n, number), "empty-answer"))
            continue
        instructions = instructions_for(sample)
        if instructions is None:
            found.append(((n, number), AS_IT_STANDS))
            continue
        numbers = fitting(sample, instructions, instructions.trained)
        if not numbers:
            found.append(((n, number), "answer-in-no-form"))
            continue
        wording = pick(seed, f"{part.name}:{sample.id}", numbers)
        try:
            reword(sample, instructions, wording)
        except DataError as error:
            raise DataError(f"{part.name}: {error}") from error
        found.append(((n, number), wording))
    return found


def _check_left(parts: Sequence[Part], left: Sequence[Sequence[Place]], dropped: dict[Place, tuple[str, str]]) -> None:
    for n, part in enumerate(parts):
        if not left[n]:
            reasons = Counter(reason for place, (reason, _) in dropped.items() if place[0] == n)
            said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            raise DataError(
                f"nothing of {part.name} is left: all of its {len(part.samples)} samples were dropped "
                f"({said or 'it is empty'}). Leave it out, or name other evaluation sets"
            )


def _draw(settings: MixSettings, parts: Sequence[Part], left: Sequence[Sequence[Place]]) -> list[Place]:
    """By seed alone; no sample twice."""
    caps = settings.caps or (0,) * len(parts)
    most = [min(len(places), cap or len(places)) for places, cap in zip(left, caps, strict=True)]
    shares = np.array(settings.weights or most, np.float64)
    shares /= shares.sum()
    # As much as the scarcest set allows.
    whole = sum(most) if not settings.weights else int(np.floor(round(float(np.min(most / shares)), 6)))
    if settings.samples > whole:
        named = dict(zip((part.name for part in parts), most, strict=True))
        raise DataError(
            f"{settings.samples} samples cannot be had: {whole} are the most with these weights and caps, without "
            f"repeating any; left are {', '.join(f'{name} {count}' for name, count in named.items())}"
        )
    counts = _rounded(shares * (settings.samples or whole), most)
    taken: list[Place] = []
    for part, places, count in zip(parts, left, counts, strict=True):
        rng = np.random.default_rng([settings.seed, *hashlib.sha256(part.name.encode()).digest()[:8]])
        taken += [places[place] for place in sorted(rng.permutation(len(places))[:count].tolist())]
    order = np.random.default_rng([settings.seed, len(taken)]).permutation(len(taken))
    return [taken[place] for place in order.tolist()]


def _rounded(wanted: np.ndarray, most: Sequence[int]) -> list[int]:
    """Whole numbers of the same sum, at least one of each set: the largest remainders are rounded up."""
    wanted = np.round(wanted, 6)
    counts = np.minimum(np.maximum(np.floor(wanted), 1), most).astype(int)
    for place in np.argsort(np.floor(wanted) - wanted, kind="stable").tolist():
        if counts.sum() < round(float(wanted.sum())) and counts[place] < most[place]:
            counts[place] += 1
    return counts.tolist()
