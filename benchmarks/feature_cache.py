"""Stage 1 from images against stage 1 from cached features, in one run: python benchmarks/feature_cache.py

Both trainings are calls of the command line with random weights of the stated towers and decoders, on pictures of
noise; they see the same rows. Steps are timed by the trainer itself, after the first, which compiles. The losses of
both are compared: on one device they are equal bit for bit.

    python benchmarks/feature_cache.py --tower=facebook/dinov2-small --decoder=smollm2-135m --scales=70,210 --rows=2
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
WORDS = ("left", "right", "lung", "heart", "liver", "brain", "mass", "effusion", "fracture", "normal", "chest")


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, cache = folder / "data", folder / "features"
        write_pictures(folder / "raw", options.rows * options.images * options.steps)
        own = ("--config=configs/data/own.py:train=train.json", f"--config.source={folder / 'raw'}", f"--out={data}")
        command("prepare", *own, "--config.workers=1")
        settings = training(data, options)
        begun = time.perf_counter()
        command("prepare", "--features", *settings, f"--out={cache}")
        encoded = time.perf_counter() - begun
        runs = {}
        for kind, extra in (("images", ()), ("cached features", (f"--config.data.features={cache}",))):
            workdir = folder / kind.split()[0]
            command("train", *settings, *extra, f"--workdir={workdir}")
            runs[kind] = read_steps(workdir)
    show(options, runs, encoded)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tower", default="facebook/dinov2-small")
    parser.add_argument("--decoder", default="smollm2-135m")
    parser.add_argument("--scales", default="70,210")
    parser.add_argument("--rows", type=int, default=1, help="of a step")
    parser.add_argument("--images", type=int, default=7, help="of a row, one to a question")
    parser.add_argument("--steps", type=int, default=6)
    return parser.parse_args()


def write_pictures(folder: Path, count: int) -> None:
    """As many questions as pictures."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (512, 512, 3), np.uint8)).save(folder / f"{number}.jpg")
        talk = [{"from": "human", "value": " ".join(rng.choice(WORDS, 3))}, {"from": "gpt", "value": "left"}]
        rows.append({"id": str(number), "image": f"{number}.jpg", "conversations": talk})
    (folder / "train.json").write_text(json.dumps(rows))


def training(data: Path, options: argparse.Namespace) -> list[str]:
    scales = tuple(int(size) for size in options.scales.split(","))
    return [
        f"--config=configs/llama3_med.py:stage=1,tower={options.tower},decoder={options.decoder},data={data}",
        f"--config.model.scales={scales}",
        "--config.model.compute_dtype=float32",
        "--config.model.frozen_dtype=float32",
        "--config.model.remat.tower=none",
        "--config.model.remat.decoder=none",
        '--config.init.random=("tower", "connector", "decoder")',
        "--config.tokenizer.train_vocab_size=300",
        f"--config.data.row_tokens={(scales[0] // 14) ** 2 * options.images + 20 * options.images}",
        f"--config.data.image_slots={options.images}",
        "--config.data.workers=0",
        f"--config.train.batch_rows={options.rows}",
        "--config.train.log_every=1",
        "--config.train.save_every=1000000",
        "--config.log.tensorboard=False",
    ]


def command(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "biomedgpt_jax", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def read_steps(workdir: Path) -> list[dict[str, float]]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "loss" in row]


def show(options: argparse.Namespace, runs: dict[str, list[dict[str, float]]], encoded: float) -> None:
    seconds = {
        kind: float(np.median([row["step_seconds"] for row in rows if "step_seconds" in row]))
        for kind, rows in runs.items()
    }
    table = Table(
        "stage 1 from",
        "seconds per step",
        "samples/s",
        "ratio",
        title=f"{options.tower} at {options.scales}, {options.decoder}",
    )
    samples = options.rows * options.images
    for kind, each in seconds.items():
        table.add_row(kind, f"{each:.2f}", f"{samples / each:.2f}", f"{seconds['images'] / each:.2f}")
    console = Console()
    console.print(table)
    images, cached = ([row["loss"] for row in rows] for rows in runs.values())
    same = (
        "equal bit for bit" if images == cached else f"max difference {max(map(abs, np.subtract(images, cached))):.2e}"
    )
    console.print(f"losses of {len(images)} steps: {same}, from {images[0]:.4f} to {images[-1]:.4f}")
    console.print(f"making the cache: {encoded:.0f} s for {samples * options.steps} images, with start and compilation")


if __name__ == "__main__":
    main()
