"""What `biomedgpt import` and `export` cost, beside copying the files: python benchmarks/import_8b.py

The checkpoint, of Llama-3-8B if --decoder names no other, is made up: random bits under the right names, in the right
shapes and shards. Each measurement begins with the files out of the page cache and ends when the result is on the disk;
that of the export has the reading back in it (--noverify leaves out PyTorch alone). --layers=2 is a quick try.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Cost:
    seconds: float
    gibibytes: float  # largest resident memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", default="llama-3-8b", choices=["llama-3-8b", "tinyllama-1.1b"])
    parser.add_argument("--layers", type=int)
    parser.add_argument("--folder", help="where to work; needs three times the checkpoint's size", default=".")
    arguments = parser.parse_args()
    config = PRESETS[arguments.decoder]
    config = replace(config, depth=arguments.layers or config.depth)
    with tempfile.TemporaryDirectory(prefix="import-8b-", dir=arguments.folder) as name:
        work = Path(name)
        size = make_checkpoint(work / "hf", config)
        copy = cost(work / "hf", ["cp", "-r", str(work / "hf"), str(work / "copy")])
        shutil.rmtree(work / "copy")
        verbs = [sys.executable, "-m", "biomedgpt_jax"]
        read = cost(work / "hf", [*verbs, "import", f"--from={work / 'hf'}", f"--out={work / 'in'}"])
        shutil.rmtree(work / "hf")
        write = cost(work / "in", [*verbs, "export", f"--model={work / 'in'}", f"--out={work / 'out'}", "--noverify"])
    table = Table("", "s", "of copying", "peak memory, GiB", title=f"{arguments.decoder}, {size / 1e9:.1f} GB")
    table.add_row("copy", f"{copy.seconds:.1f}", "1.00", "")  # its memory is mostly that of this process before exec
    for what, each in (("import", read), ("export, read back", write)):
        table.add_row(what, f"{each.seconds:.1f}", f"{each.seconds / copy.seconds:.2f}", f"{each.gibibytes:.2f}")
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


def cost(source: Path, command: list[str]) -> Cost:
    """Of a command and of writing what it left in the cache, with the source not in the cache."""
    os.sync()
    for file in source.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    os.sync()
    return Cost(time.perf_counter() - begun, used.ru_maxrss / 2**20)


if __name__ == "__main__":
    main()
