"""A report as one HTML file that needs nothing else: no script, no request, light and dark.

Every text that came from data goes through `escape`; the page's own policy forbids all but its inline style and images.
"""

import os
from html import escape
from itertools import groupby
from pathlib import Path

from biomedgpt_jax.report.content import (
    NOT_A_DOCTOR,
    Chart,
    Check,
    DataFacts,
    LossRow,
    RunPage,
    ScoreRow,
    Shown,
    Table,
    percent,
)
from biomedgpt_jax.report.plots import legend, line_chart, score_strip
from biomedgpt_jax.report.style import STYLE
from biomedgpt_jax.report.thumbnails import data_address, thumbnail

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_page(page: RunPage, path: str | os.PathLike[str]) -> Path:
    """Write the page to `path`, whole or not at all, and return where it is."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".unfinished")
    unfinished.write_text(render(page), encoding="utf-8", errors="backslashreplace")
    unfinished.replace(target)
    return target.resolve()


def render(page: RunPage) -> str:
    """The page as HTML text."""
    sections = [
        _head(page),
        _scores(page),
        _losses(page.losses, page.charts),
        _samples(page.samples),
        _facts(page.facts),
        *(_table(table) for table in page.tables),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + "\n<footer>Written by biomedgpt_jax. The page is one file: it loads nothing and runs no script.</footer>"
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(page: RunPage) -> str:
    checks = "".join(map(_check, page.checks))
    return (
        f'<header>\n<h1>{escape(page.title)}</h1>\n<p class="lead">{escape(page.model)}</p>\n'
        f"{_data(page.data)}\n"
        f'<p class="note"><b>Not a doctor.</b> {escape(NOT_A_DOCTOR)}</p>\n'
        + (f'<div class="checks">{checks}</div>\n' if checks else "")
        + "</header>"
    )


def _data(data: DataFacts) -> str:
    rows = (("Data", data.name), ("From", data.origin), ("Licence", data.licence), ("Split", data.split))
    return f'<div class="facts">{_pairs(rows)}</div>'


def _check(check: Check) -> str:
    badge = _badge(check.ok, "reached", "missed")
    return (
        f'<div class="card check{"" if check.ok else " missed"}"><h3>{escape(check.name)}</h3>'
        f'<div class="found">{escape(check.found)}</div>'
        f'<span class="quiet">needed: {escape(check.needed)}</span> {badge}</div>'
    )


def _scores(page: RunPage) -> str:
    if not page.scores:
        return ""
    trained = any(row.before is not None for row in page.scores)
    columns = ["Questions", "n", *(["Before"] if trained else []), "After" if trained else "Score"]
    columns += ["95% interval", "Majority answer", ""]
    head = "".join(
        f'<th class="{"number" if 0 < n < 5 - (not trained) else ""}">{c}</th>' for n, c in enumerate(columns)
    )
    body = "".join(_score(row, columns) for row in page.scores)
    key = _key(trained)
    return (
        f'<section><h2>Scores</h2>\n<div class="card"><table class="stack">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n{key}"
        f'<p class="quiet">Share of right answers under the protocol {escape(page.protocol)}, '
        "or the mean of the score that is named. Interval: "
        f"{escape(page.interval)}. Majority answer: always the answer that is most frequent in training, "
        "scored the same way.</p></section>"
    )


def _score(row: ScoreRow, columns: list[str]) -> str:
    interval = "\u2013" if row.low is None else f"{percent(row.low)} to {percent(row.high)}"
    said = f'<span class="quiet">\u201c{escape(row.baseline_answer)}\u201d</span>' if row.baseline_answer else ""
    cells = [("first", escape(row.questions)), ("number", str(row.n))]
    if "Before" in columns:
        cells.append(("number", percent(row.before)))
    cells += [("number strong", percent(row.after)), ("number", interval)]
    cells += [("", f"<span>{percent(row.baseline)}{said}</span>"), ("", score_strip(row))]
    return (
        "<tr>"
        + "".join(
            f'<td class="{css}" data-label="{label}">{cell}</td>'
            for (css, cell), label in zip(cells, columns, strict=True)
        )
        + "</tr>"
    )


def _key(trained: bool) -> str:
    dot = '<circle class="dot c0" cx="13" cy="7" r="4.5"/>'
    ring = '<circle class="hollow" cx="13" cy="7" r="3.5"/>'
    mark = '<line class="mark" x1="13" x2="13" y1="0" y2="14"/>'
    band = '<line class="whisker c0" x1="4" x2="22" y1="7" y2="7"/>'
    items = [(dot, "after training" if trained else "score"), (band, "interval"), (mark, "majority answer")]
    if trained:
        items.insert(0, (ring, "before training"))
    spans = "".join(f'<span><svg viewBox="0 0 26 14" aria-hidden="true">{s}</svg>{text}</span>' for s, text in items)
    return f'<p class="legend" style="margin-top:10px">{spans}<span>axis 0 to 100%</span></p>'


def _losses(losses: tuple[LossRow, ...], charts: tuple[Chart, ...]) -> str:
    if not losses and not charts:
        return ""
    drawn = "".join(f'<div class="card"><h3>{escape(c.title)}</h3>{legend(c)}{line_chart(c)}</div>' for c in charts)
    rows = "".join(
        f'<tr><td class="first">{escape(row.stage)}</td><td class="number" data-label="Steps">{row.steps:,}</td>'
        f'<td class="number" data-label="First loss">{row.first:.4g}</td>'
        f'<td class="number strong" data-label="Last loss">{row.last:.4g}</td></tr>'
        for row in losses
    )
    table = (
        '<div class="card" style="margin-bottom:16px"><table class="stack"><thead><tr><th>Stage</th>'
        '<th class="number">Steps</th><th class="number">First loss</th><th class="number">Last loss</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        if rows
        else ""
    )
    return (
        f'<section><h2>Training</h2>\n{table}\n<div class="columns">{drawn}</div>\n'
        '<p class="quiet" style="margin-top:10px">Loss: mean negative log-likelihood of a supervised token, in nats. '
        "Faint: as recorded; strong: moving average.</p></section>"
    )


def _samples(samples: tuple[Shown, ...]) -> str:
    if not samples:
        return ""
    right = sum(sample.right for sample in samples)
    pictures = {image for sample in samples for image in sample.images}
    ordered = sorted(samples, key=lambda s: s.images)
    by_image = {images: list(group) for images, group in groupby(ordered, key=lambda s: s.images)}
    cards = "".join(_card(images, by_image[images]) for images in dict.fromkeys(s.images for s in samples))
    return (
        f"<section><h2>Images, questions and answers</h2>\n"
        f'<p class="quiet">{len(samples)} questions about {len(pictures)} images of the scored split; '
        f"{right} answered right. Images are reduced in size.</p>\n"
        f'<div class="gallery">{cards}</div></section>'
    )


def _card(images: tuple[bytes, ...], samples: list[Shown]) -> str:
    pictures = "".join(_picture(image, samples[0].id) for image in images)
    asked = "".join(map(_asked, samples))
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ""
    return f'<article class="card">{shown}{asked}</article>'


def _picture(image: bytes, sample: str) -> str:
    try:
        address = data_address(thumbnail(image))
    except (OSError, ValueError) as error:
        return f'<div class="gone">The image of {escape(sample)} cannot be shown: {escape(str(error))}</div>'
    return f'<img src="{address}" alt="image of {escape(sample, quote=True)}">'


def _asked(sample: Shown) -> str:
    rows = [("Expected", sample.truth), ("Model", sample.prediction or "(nothing)")]
    if sample.before is not None:
        rows.append(("Untrained", sample.before or "(nothing)"))
    return (
        f'<div class="asked"><p class="question">{escape(sample.question)}</p>{_pairs(rows)}'
        f'<p class="tail">{_badge(sample.right, "right", "wrong")}'
        f"<span>{escape(sample.task)} \u00b7 {escape(sample.id)}</span></p></div>"
    )


def _facts(facts: tuple[tuple[str, str], ...]) -> str:
    return f'<section><h2>Run</h2><div class="card facts">{_pairs(facts)}</div></section>' if facts else ""


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="card wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _pairs(rows) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows) + "</dl>"


def _badge(ok: bool, yes: str, no: str) -> str:
    return f'<span class="badge good">\u2713 {yes}</span>' if ok else f'<span class="badge bad">\u2717 {no}</span>'
