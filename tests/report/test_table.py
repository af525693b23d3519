import dataclasses

from rich.console import Console

from biomedgpt_jax.report.table import summary_table


def printed(page) -> str:
    console = Console(width=120, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(summary_table(page))
    return capture.get()


def test_the_table_has_losses_scores_baselines_and_checks(page):
    page = dataclasses.replace(page, title="[bold]A run[/bold]")
    text = printed(page)
    assert "[bold]A run[/bold]" in text  # markup in data is text
    scores = next(line for line in text.splitlines() if "body part" in line)
    assert scores.split()[-7:] == ["67", "0.0%", "86.6%", "77.6%", "to", "94.0%", "41.8%"]
    assert "1,200" in text and "+44.8 points" in text
    assert "reached" in text and "missed" in text


def test_a_bare_evaluation_prints_scores_only(page):
    text = printed(dataclasses.replace(page, losses=(), checks=(), scores=page.scores[1:]))
    assert "25.0%" in text and "Before" not in text and "Checks" not in text and "Training loss" not in text
