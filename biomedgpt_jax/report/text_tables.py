"""The tables of a page as Markdown and as LaTeX."""

from biomedgpt_jax.report.content import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\N{EN DASH}": "--",
    "\N{NOT EQUAL TO}": r"$\neq$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
}


def markdown(table: Table) -> str:
    """A pipe table below its title."""
    lines = [_pipes(table.columns), _pipes(("---",) * len(table.columns)), *map(_pipes, table.rows)]
    return f"## {table.title}\n\n" + "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A `table` of plain LaTeX, which needs no package."""
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in (table.columns, *table.rows)]
    body = "\n".join([r"\hline", rows[0], r"\hline", *rows[1:], r"\hline"])
    columns = "l" * len(table.columns)
    return (
        f"\\begin{{table}}\n\\caption{{{_latex(table.title)}}}\n\\begin{{tabular}}{{{columns}}}\n{body}\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def _pipes(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text.replace("\n", " "))
