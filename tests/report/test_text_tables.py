from biomedgpt_jax.report.content import Table
from biomedgpt_jax.report.text_tables import latex, markdown

TABLE = Table("Scores & more", ("data_set", "mean"), (("a|b", "50.0%"), ("two\nlines", "\N{NOT EQUAL TO} 3 $")))


def test_markdown_keeps_its_columns():
    assert markdown(TABLE).splitlines() == [
        "## Scores & more",
        "",
        "| data_set | mean |",
        "| --- | --- |",
        r"| a\|b | 50.0% |",
        "| two lines | \N{NOT EQUAL TO} 3 $ |",
    ]


def test_latex_takes_any_text():
    text = latex(TABLE)
    assert r"\caption{Scores \& more}" in text and r"\begin{tabular}{ll}" in text
    assert r"data\_set & mean \\" in text and r"a|b & 50.0\% \\" in text
    assert r"two lines & $\neq$ 3 \$ \\" in text
    assert text.count(r"\hline") == 3
