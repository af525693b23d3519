"""What `biomedgpt import` costs for Llama-3-8B, beside copying its files: python benchmarks/import_8b.py

The checkpoint is made up: random bits under the right names, in the right shapes and shards. Each measurement begins
with the files out of the page cache and ends when the result is on the disk. --layers=2 is a quick try.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table

from biomedgpt_jax.convert.decoders import RULES
from biomedgpt_jax.convert.mapping import theirs_shapes
from biomedgpt_jax.convert.shapes import part_shapes
from biomedgpt_jax.convert.tensors import write_safetensors
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama import LlamaConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=PRESETS["llama-3-8b"].depth)
    parser.add_argument("--folder", help="where to work; needs three times the checkpoint's size", default=".")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="import-8b-", dir=arguments.folder) as name:
        work = Path(name)
        size = make_checkpoint(work / "hf", replace(PRESETS["llama-3-8b"], depth=arguments.layers))
        copied = timed(work / "hf", ["cp", "-r", str(work / "hf"), str(work / "copy")])
        shutil.rmtree(work / "copy")
        command = [sys.executable, "-m", "biomedgpt_jax", "import", f"--from={work / 'hf'}", f"--out={work / 'out'}"]
        imported = timed(work / "hf", command)
        # ru_maxrss of children is that of the largest: the import, as cp takes a few megabytes.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    table = Table("checkpoint, GB", "copy, s", "import, s", "ratio", "peak memory of the import, GiB")
    table.add_row(f"{size / 1e9:.1f}", f"{copied:.1f}", f"{imported:.1f}", f"{imported / copied:.2f}", f"{peak:.2f}")
    Console().print(table)


def make_checkpoint(folder: Path, config: LlamaConfig) -> int:
    """Shards of 5 GB with an index, as published; returns the bytes of all tensors."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 0x3F80, 2**24, np.uint16)  # bfloat16 in 0..1
    size = 0

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal size
        shapes = theirs_shapes(RULES["llama"], part_shapes(config), where="llama-3-8b")
        for key, shape in sorted(shapes.items(), key=lambda item: place(item[0])):
            count = int(np.prod(shape))
            start = int(rng.integers(0, noise.size))
            array = np.resize(np.roll(noise, start), count).view(ml_dtypes.bfloat16).reshape(shape)
            size += array.nbytes
            yield key, array

    write_safetensors(folder, tensors(), max_shard_bytes=5_000_000_000)
    (folder / "config.json").write_text(json.dumps(hf_config(config)))
    return size


def place(key: str) -> tuple[int, int, str]:
    """Published files go from the embedding through the layers to the head."""
    parts = key.split(".")
    layer = int(parts[2]) if parts[1] == "layers" else -1
    return (0 if "embed" in key else 1 if layer >= 0 else 2, layer, key)


def hf_config(config: LlamaConfig) -> dict:
    return {
        "model_type": "llama",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
    }


def timed(source: Path, command: list[str]) -> float:
    """Seconds of a command and of writing what it left in the cache, with the source not in the cache."""
    os.sync()
    for file in source.iterdir():
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    subprocess.run(command, check=True)
    os.sync()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
