"""A task's instructions: eight wordings, of which the last two are held out from every training mixture."""

from dataclasses import dataclass
from string import Formatter

from biomedgpt_jax.data.instructions.form import Form, Kind

COUNT, TRAINED = 8, 6  # wordings of a task, and those that a mixture may use; the others measure generalisation


@dataclass(frozen=True)
class Variant:
    """One wording. `text` names in braces what it is filled with; `form` is what it demands, without the options."""

    name: str
    text: str
    form: Form

    @property
    def places(self) -> frozenset[str]:
        """What stands in braces."""
        return frozenset(name for _, name, _, _ in Formatter().parse(self.text) if name is not None)


@dataclass(frozen=True)
class Instructions:
    """All wordings of a task. Each must name what the task `needs`, and nothing that its samples do not have (`given`).

    Raises ValueError for a wording that breaks this, or that chooses from options which it does not tell.
    """

    task: str
    needs: frozenset[str]
    given: frozenset[str]
    variants: tuple[Variant, ...]

    def __post_init__(self) -> None:
        if len(self.variants) != COUNT or len({v.name for v in self.variants}) != COUNT:
            raise ValueError(f"instructions of {self.task}: expected {COUNT} wordings of distinct names")
        for variant in self.variants:
            where = f"instruction {self.task}/{variant.name}"
            if missing := self.needs - variant.places:
                raise ValueError(f"{where}: does not name {', '.join(sorted(missing))}")
            if unknown := variant.places - self.needs - self.given:
                raise ValueError(f"{where}: no sample of the task has {', '.join(sorted(unknown))}")
            told = variant.places & {"options", "lettered"}
            if variant.form.kind in (Kind.CLASS, Kind.OPTION) and not told:
                raise ValueError(f"{where}: asks for one of the options and does not tell them")
            if variant.form.kind is Kind.LETTER and "lettered" not in told:
                raise ValueError(f"{where}: asks for a letter and shows none")

    @property
    def trained(self) -> range:
        """Numbers, from 1, of the wordings that a mixture may use."""
        return range(1, TRAINED + 1)

    @property
    def held_out(self) -> range:
        return range(TRAINED + 1, COUNT + 1)

    def name(self, number: int) -> str:
        return f"{self.task}/{self.variants[number - 1].name}"
