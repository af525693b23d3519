"""What an instruction mixture is made of, checked before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.lint.material import Part
from biomedgpt_jax.data.source import PreparedSplit


@dataclass(frozen=True)
class MixSettings:
    """Splits are (prepared folder, split).

    `weights` are shares of the samples, () is all that there is of each set; `caps` are the most samples of each set, 0
    for no such limit; `samples` is the size of the whole, 0: as large as the others allow. `near` also compares
    pictures by their looks, which decodes each of them once in `threads` threads.
    """

    taken: tuple[tuple[str, str], ...]
    scored: tuple[tuple[str, str], ...]
    weights: tuple[float, ...]
    caps: tuple[int, ...]
    samples: int
    seed: int
    near: bool
    threads: int


def open_parts(settings: MixSettings) -> tuple[list[Part], list[Part]]:
    """What is mixed and what is scored, with all texts read.

    Raises:
        DataError: folders or splits that are missing, and settings that do not fit them.
    """
    if not settings.taken:
        raise DataError("nothing to mix: name prepared data sets")
    for name, values in (("weights", settings.weights), ("caps", settings.caps)):
        if values and len(values) != len(settings.taken):
            raise DataError(f"{name}: {len(values)} numbers for {len(settings.taken)} data sets; give one for each")
    taken = [_part(directory, split, learned=True) for directory, split in settings.taken]
    names = [part.name for part in taken]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"two data sets of the name {', '.join(repeated)}; ids would clash: rename a folder")
    _check_numbers(settings, taken)
    scored = [_part(directory, split, learned=False) for directory, split in settings.scored]
    for part in taken:
        for other in scored:
            if (part.split.directory.resolve(), part.split.split) == (
                other.split.directory.resolve(),
                other.split.split,
            ):
                raise DataError(f"{part.name} is to be mixed and is an evaluation set; nothing of it may be trained on")
    return taken, scored


def _part(directory: str, split: str, *, learned: bool) -> Part:
    opened = PreparedSplit(Path(directory), split)
    return Part(opened, learned, opened.samples(range(len(opened))))


def _check_numbers(settings: MixSettings, taken: Sequence[Part]) -> None:
    for part, weight in zip(taken, settings.weights, strict=False):
        if not 0 < weight < float("inf"):
            raise DataError(
                f"the weight of {part.name} is {weight:g}; expected a number above 0. Leave the set out instead"
            )
    for part, cap in zip(taken, settings.caps, strict=False):
        if cap < 0 or cap > len(part.samples):
            raise DataError(
                f"the cap of {part.name} is {cap}, but it has {len(part.samples)} samples; give a number up to that, "
                "or 0 for no cap"
            )
    if settings.samples < 0:
        raise DataError(f"samples is {settings.samples}; expected a number above 0, or 0 for all that there are")
