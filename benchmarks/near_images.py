"""What it costs to find nearly equal pictures, and which copies are found: python benchmarks/near_images.py [count ...]

Times `near` of lint on pictures of random scenes whose mean grey levels differ as widely as those of radiology (60 to
190). With BIOMEDGPT_DATA it also makes copies of VQA-RAD's pictures and says how many of them are known again.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.lint.likeness import SIDE, in_small, near
from biomedgpt_jax.data.lint.material import Pictures

COUNTS = (10_000, 30_000, 100_000)
CHUNK = 1000


def scenes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Smooth grey pictures, float32 [count 64 64]."""
    coarse = rng.normal(0, 35, (count, 8, 8)).astype(np.float32)
    places = (np.arange(SIDE) + 0.5) / 8 - 0.5
    mix = np.clip(1 - np.abs(places[:, None] - np.arange(8)), 0, None).astype(np.float32)
    smooth = np.einsum("iu,nuv,jv->nij", mix, coarse, mix, optimize=True)
    return np.clip(smooth + rng.uniform(60, 190, (count, 1, 1)), 0, 255).astype(np.float32)


def in_chunks(rng: np.random.Generator, count: int) -> Pictures:
    parts = [in_small(scenes(rng, CHUNK)) for _ in range(count // CHUNK)]
    never = np.zeros(count, bool)
    return Pictures(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), never, never, never)


def cut(share: float) -> Callable[[Image.Image], Image.Image]:
    def middle(image: Image.Image) -> Image.Image:
        left, top = (round(side * (1 - share) / 2) for side in image.size)
        return image.crop((left, top, image.width - left, image.height - top))

    return middle


def copies(folder: Path, change: Callable[[Image.Image], Image.Image]) -> Pictures:
    grey = []
    for file in sorted(folder.glob("*.jpg")):
        out = io.BytesIO()
        change(Image.open(file).convert("RGB")).save(out, "JPEG", quality=80)
        grey.append(load_square(out.getvalue(), SIDE, Geometry.RESIZE_FAST, (0, 0, 0)).mean(axis=2))
    never = np.zeros(len(grey), bool)
    return Pictures(*in_small(np.stack(grey)), never, never, never)


def main() -> None:
    table = Table("pictures", "seconds", "pairs found")
    for count in map(int, sys.argv[1:]) if sys.argv[1:] else COUNTS:
        pictures = in_chunks(np.random.default_rng(0), count)
        begun = time.perf_counter()
        pairs = int((near(pictures, pictures, earlier=True) >= 0).sum())
        table.add_row(f"{count:,}", f"{time.perf_counter() - begun:.1f}", str(pairs))
    Console().print(table)
    data = os.environ.get("BIOMEDGPT_DATA")
    if not data:
        return
    folder = Path(data) / "vqa_rad" / "images"
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "a third of the pixels": lambda image: image.resize((image.width // 3, image.height // 3)),
        "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "a quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
        "half a turn": lambda image: image.transpose(Image.Transpose.ROTATE_180),
        **{f"the middle {share:.0%} of each side": cut(share) for share in (0.97, 0.94, 0.9, 0.85, 0.8, 0.75, 0.7)},
    }
    originals = copies(folder, lambda image: image)
    table = Table("copy of VQA-RAD's pictures", "found", "taken for another")
    for name, change in changes.items():
        match, own = near(copies(folder, change), originals), np.arange(len(originals.small))
        table.add_row(name, f"{(match == own).mean():.0%}", f"{((match >= 0) & (match != own)).mean():.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
