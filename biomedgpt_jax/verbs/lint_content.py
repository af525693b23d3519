"""Findings of lint as tables show them."""

from biomedgpt_jax.data.lint.findings import RULES, Severity
from biomedgpt_jax.report.content import Table
from biomedgpt_jax.verbs.linting import Lint

TITLE = "What lint found in the data"
COLUMNS = ("code", "severity", "where", "count", "of", "what", "what to do", "samples")


def finding_rows(lint: Lint) -> list[tuple[str, ...]]:
    """By COLUMNS, errors first."""
    ordered = sorted(lint.findings, key=lambda each: (each.severity is not Severity.ERROR, each.code))
    return [
        (
            each.code,
            each.severity.value,
            each.where,
            str(each.count),
            str(each.total),
            RULES[each.code].what,
            RULES[each.code].do,
            ", ".join(each.ids),
        )
        for each in ordered
    ]


def findings_table(lint: Lint) -> Table:
    """With a row that says so where nothing was found."""
    nothing = ("nothing", *[""] * (len(COLUMNS) - 1))
    return Table(TITLE, COLUMNS, tuple(finding_rows(lint)) or (nothing,))
