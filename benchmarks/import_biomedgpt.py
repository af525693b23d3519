"""What importing and exporting a BiomedGPT cost, beside copying the file: python benchmarks/import_biomedgpt.py

The checkpoint is made up: random numbers under the published names, in the published shapes, with the stored copies,
tables and settings. --size=base is a quick try. Each measurement begins with the file out of the page cache and ends
when the result is on the disk; that of the export has the reading back in it.
"""

import argparse
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
from import_8b import cost
from rich.console import Console
from rich.table import Table

from biomedgpt_jax.convert.biomedgpt import EMBEDDING, FAIRSEQ_RULES
from biomedgpt_jax.convert.biomedgpt_buffers import with_stored
from biomedgpt_jax.convert.biomedgpt_settings import fairseq_settings
from biomedgpt_jax.convert.mapping import theirs_shapes
from biomedgpt_jax.convert.shapes import leaf_shapes
from biomedgpt_jax.models.biomedgpt_config import PRESETS, BiomedGptConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="huge", choices=["tiny", "medium", "base", "large", "huge"])
    parser.add_argument("--form", default="ofa", choices=["ofa", "fairseq"], help="of the export")
    parser.add_argument("--folder", help="where to work; needs three times the checkpoint's size", default=".")
    parser.add_argument("--make", help="only write the checkpoint to this file", type=Path)
    arguments = parser.parse_args()
    if arguments.make:
        make_checkpoint(arguments.make, PRESETS[arguments.size])
        return
    with tempfile.TemporaryDirectory(prefix="import-biomedgpt-", dir=arguments.folder) as name:
        work, source = Path(name), Path(name) / "published"
        source.mkdir()
        file = source / "checkpoint.pt"
        # In a process of its own, which has all of it in memory.
        subprocess.run([sys.executable, __file__, f"--size={arguments.size}", f"--make={file}"], check=True)
        size = file.stat().st_size
        copy = cost(source, ["cp", str(file), str(work / "copy")])
        (work / "copy").unlink()
        verbs = [sys.executable, "-m", "biomedgpt_jax"]
        read = cost(source, [*verbs, "import", "--from=biomedgpt", str(file), f"--out={work / 'in'}"])
        file.unlink()
        write = cost(
            work / "in",
            [*verbs, "export", f"--model={work / 'in'}", f"--out={work / 'out'}", f"--form={arguments.form}"],
        )
    table = Table("", "s", "of copying", "peak memory, GiB", title=f"{arguments.size}, {size / 1e9:.2f} GB")
    table.add_row("copy", f"{copy.seconds:.1f}", "1.00", "")
    for what, each in (("import", read), (f"export ({arguments.form}), read back", write)):
        table.add_row(what, f"{each.seconds:.1f}", f"{each.seconds / copy.seconds:.2f}", f"{each.gibibytes:.2f}")
    Console().print(table)


def make_checkpoint(file: Path, config: BiomedGptConfig) -> None:
    """As fairseq saves it, in float32, with three copies of the embedding."""
    import torch

    rng = np.random.default_rng(0)
    shapes = theirs_shapes(FAIRSEQ_RULES, leaf_shapes(config), where="published")
    shapes[EMBEDDING] = (config.vocab_size, config.width)
    parameters = ((key, rng.standard_normal(shape, np.float32)) for key, shape in shapes.items())
    stored = with_stored(parameters, config, hugging_face=False)
    state = {key: torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for key, array in stored}
    settings = Namespace(**fairseq_settings(config, "published"))
    torch.save({"args": settings, "model": state, "extra_state": {"val_loss": None}}, file)


if __name__ == "__main__":
    main()
