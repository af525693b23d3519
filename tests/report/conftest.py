"""One page with every section, hostile text included, shared by the report tests."""

import io

import pytest
from PIL import Image

from biomedgpt_jax.report import content

HOSTILE = "<script>alert('x')</script> & \"quoted\" <img src=http://example.org/x.png>"


def png(colour, size=(400, 300), mode="RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def page() -> content.RunPage:
    red, blue = png((200, 30, 30)), png((30, 30, 200))
    steps = tuple(map(float, range(100)))
    falling = content.Series("train", steps, tuple(5 / (1 + s) + 0.1 for s in steps))
    held_out = content.Series("held out", (10.0, 50.0, 90.0), (2.0, 1.0, 0.8))
    return content.RunPage(
        title=f"A run {HOSTILE}",
        model="A small model.",
        data=content.DataFacts("VQA-RAD", "a folder", "CC0-1.0", "by image and case"),
        protocol="strict/v1",
        interval="95% bootstrap",
        scores=(
            content.ScoreRow("body part, closed", 67, 0.0, 0.866, 0.776, 0.94, 0.418, "abdomen"),
            content.ScoreRow(f"own, open {HOSTILE}", 1, None, 0.25, None, None, None, None),
        ),
        samples=(
            content.Shown("s1", (red,), "organ", "Which part?", "head", "chest", False, "ggg"),
            content.Shown("s2", (blue,), "own", HOSTILE, HOSTILE, HOSTILE, True, None),
            content.Shown("s3", (red,), "own", "Is it red?", "yes", "", False, None),
            content.Shown("s4", (), "own", "Without an image?", "yes", "yes", True, None),
        ),
        checks=(
            content.Check("Beats the majority", "+44.8 points", "20 points", True),
            content.Check("Same logits", "0.5", "1e-4", False),
        ),
        losses=(content.LossRow("1: connector", 1200, 5.1, 0.15),),
        charts=(
            content.Chart("Stage 1", "step", "loss", (falling, held_out), log_y=True),
            content.Chart("Stage 2", "step", "loss", (falling,), log_y=False),
        ),
        facts=(("Configuration", "0123abc"), ("Command", HOSTILE)),
        tables=(content.Table("Ledger", ("module", "parameters"), (("tower", "1,000"), (HOSTILE, "2"))),),
    )
