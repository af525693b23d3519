import base64
import dataclasses
import io
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from biomedgpt_jax.report.page import POLICY, render, write_page

VOID = {"meta", "img", "br", "link", "input", "hr"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Reader(HTMLParser):
    """Tags, attributes and text; fails on tags that are not closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, text):
        self.said.append(text)

    def tags(self, name: str) -> list[dict]:
        return [attrs for tag, attrs in self.seen if tag == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def test_the_page_parses_and_says_everything(page):
    text = Reader(render(page)).text
    for sample in page.samples:
        assert f"{sample.task} \u00b7 {sample.id}" in text
        assert " ".join(sample.question.split()) in text
    for said in (
        "77.6% to 94.0%",
        "86.6%",
        "41.8%",
        "\u201cabdomen\u201d",
        "1,200",
        "not a doctor",
        "CC0-1.0",
        "(nothing)",
    ):
        assert said in text
    assert text.count("\u2713 right") == 2 and text.count("\u2717 wrong") == 2
    assert text.count("\u2713 reached") == 1 and text.count("\u2717 missed") == 1
    assert "4 questions about 2 images of the scored split; 2 answered right" in text


def test_data_never_becomes_markup_and_nothing_is_loaded(page):
    html = render(page)
    reader = Reader(html)
    assert not reader.tags("script") and not reader.tags("link") and not reader.tags("iframe")
    assert "<script" not in html and "alert('x')" in reader.text  # shown as text
    for tag, attrs in reader.seen:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in LOADING & attrs.keys():
            assert attrs[name].startswith("data:image/jpeg;base64,"), (tag, name)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    (policy,) = [m["content"] for m in reader.tags("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == POLICY and policy.startswith("default-src 'none'")


def test_an_image_stands_once_and_small(page):
    reader = Reader(render(page))
    pictures = reader.tags("img")
    assert len(pictures) == 2  # s1 and s3 are about the same image
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]["src"].split(",")[1]))) as shown:
        assert shown.format == "JPEG" and shown.size == (256, 192)
        red, green, _ = shown.getpixel((100, 100))
        assert red > 150 and green < 80


def test_a_broken_image_is_said_not_hidden(page):
    broken = dataclasses.replace(page.samples[0], id="s9", images=(b"not an image",))
    reader = Reader(render(dataclasses.replace(page, samples=(broken,))))
    assert "The image of s9 cannot be shown" in reader.text and not reader.tags("img")


def test_empty_sections_are_left_out(page):
    """An evaluation's page has scores and samples only."""
    bare = dataclasses.replace(page, checks=(), losses=(), charts=(), facts=(), tables=())
    bare = dataclasses.replace(bare, scores=bare.scores[1:])
    text = Reader(render(bare)).text
    assert "Training" not in text and "Run " not in text and "Ledger" not in text and "Before" not in text
    assert "25.0%" in text
    assert Reader(render(dataclasses.replace(bare, scores=(), samples=()))).text


def test_write_page_is_whole(page, tmp_path):
    target = write_page(page, tmp_path / "deep" / "index.html")
    assert target.read_text(encoding="utf-8") == render(page)
    assert [p.name for p in target.parent.iterdir()] == ["index.html"]
    odd = dataclasses.replace(page, title="half a pair \ud800")  # JSON data can hold this
    assert "half a pair \\ud800" in write_page(odd, target).read_text(encoding="utf-8")


def test_a_browser_renders_it_without_complaint(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium on this machine; install one to render the page in this test")
    target = write_page(page, tmp_path / "index.html")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --hide-scrollbars"
    # Chromium's narrowest window is 500 pixels wide.
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,4000"]
    shot = tmp_path / "shot.png"
    run = subprocess.run(
        [*command, f"--screenshot={shot}", target.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0 and shot.is_file(), run.stderr
    assert "CONSOLE" not in run.stderr, run.stderr  # the policy blocks nothing that the page needs
    with Image.open(shot) as image:
        assert {(200, 30, 30), (30, 30, 200)} <= {
            (round(r, -1), round(g, -1), round(b, -1)) for _, (r, g, b) in image.convert("RGB").getcolors(1 << 20)
        }
