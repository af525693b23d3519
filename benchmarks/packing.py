"""How full packed rows are, and what planning them costs: python benchmarks/packing.py

The mix has what is published of PubMedVision: 647,031 rows with 914,960 images, so 1.41 each, several in 22 % of the
rows, at most 29. An image is 256 tokens here. No text lengths are published: ASSUMED log-normal around 190 tokens.
"""

import time

import numpy as np
from rich.console import Console
from rich.table import Table

from biomedgpt_jax.data.packing import fill, plan_rows

SAMPLES = 50_000


def medical_mix(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (images included) and images of each sample, int64 [count]."""
    images = np.where(rng.random(count) < 0.78, 1, 1 + rng.geometric(0.532, count)).clip(1, 29)
    text = np.exp(rng.normal(np.log(190), 0.45, count)).astype(int).clip(40, 900)
    return images * 256 + text, images


def main() -> None:
    lengths, images = medical_mix(np.random.default_rng(0), SAMPLES)
    order = np.random.default_rng(1).permutation(SAMPLES)
    table = Table("row tokens", "image slots", "packed", "rows", "token fill", "image fill", "plan, µs per sample")
    for tokens, slots in ((4096, 8), (4096, 10), (4096, 12), (2048, 6), (8192, 20)):
        fits = order[(lengths[order] <= tokens) & (images[order] <= slots)]
        for pack in (False, True):
            begun = time.perf_counter()
            plan = plan_rows(fits, lengths, images, tokens, slots, pack, np.random.default_rng(2))
            cost = (time.perf_counter() - begun) / len(fits) * 1e6
            share = fill(plan, lengths, images, tokens, slots)
            table.add_row(
                f"{tokens}",
                f"{slots}",
                "yes" if pack else "no",
                f"{share.rows:,}",
                f"{share.token_share:.1%}",
                f"{share.image_share:.1%}",
                f"{cost:.1f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
