"""The last thing a run prints: losses, scores, baselines and checks, from the same facts as its page."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from biomedgpt_jax.report.content import RunPage, ScoreRow, percent


def summary_table(page: RunPage) -> RenderableType:
    """What rich prints for a page: a table each of losses, scores and checks, as far as it has them."""
    parts: list[RenderableType] = [Text(page.title, style="bold"), Text(f"Data: {page.data.name} ({page.data.origin})")]
    if page.losses:
        parts.append(_losses(page))
    if page.scores:
        parts.append(_scores(page))
    if page.checks:
        parts.append(_checks(page))
    return Group(*parts)


def _losses(page: RunPage) -> Table:
    table = _table("Training loss", "Stage", "Steps", "First", "Last")
    for row in page.losses:
        table.add_row(Text(row.stage), f"{row.steps:,}", f"{row.first:.4g}", f"{row.last:.4g}")
    return table


def _scores(page: RunPage) -> Table:
    trained = any(row.before is not None for row in page.scores)
    names = ["Before", "After"] if trained else ["Score"]
    table = _table(f"Scores, held out ({page.protocol})", "Questions", "n", *names, "95% interval", "Majority")
    for row in page.scores:
        before = [percent(row.before)] if trained else []
        table.add_row(
            Text(row.questions), str(row.n), *before, percent(row.after), _interval(row), percent(row.baseline)
        )
    return table


def _checks(page: RunPage) -> Table:
    table = _table("Checks", "What", "Found", "Needed", "")
    for check in page.checks:
        mark = Text("reached", style="green") if check.ok else Text("missed", style="bold red")
        table.add_row(Text(check.name), Text(check.found), Text(check.needed), mark)
    return table


def _interval(row: ScoreRow) -> str:
    return "\u2013" if row.low is None else f"{percent(row.low)} to {percent(row.high)}"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
