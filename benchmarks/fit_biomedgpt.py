"""What fine-tuning a BiomedGPT of each size needs on slices of 16 chips, compiled ahead of time.

    python benchmarks/fit_biomedgpt.py                    # the table of docs/fit.md: all sizes, v5e-16 and v6e-16
    python benchmarks/fit_biomedgpt.py v5e-16 tiny huge

Each line is `biomedgpt fit --config=configs/biomedgpt.py:task=vqa,size=SIZE,hardware=TOPOLOGY,rows=ROWS`: VQA at the
published image size, bfloat16, BatchNorm by device, moving average. Compilations are kept, so a second call is quick.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = ("tiny", "medium", "base", "large", "huge")
TOPOLOGIES = ("v5e-16", "v6e-16")
ROWS = 256  # 16 for each chip
GIB = 2**30
AHEAD = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def main() -> None:
    named = sys.argv[1:]
    sizes = [size for size in SIZES if size in named] or SIZES
    topologies = [name for name in named if name not in SIZES] or TOPOLOGIES
    print("| topology | size | remat | peak GiB | of | step s | pairs/s | MFU |\n|---|---|---|---|---|---|---|---|")
    for topology in topologies:
        for size in sizes:
            remat = "none" if size in ("tiny", "medium") else "full"
            print(f"| {topology} | {size} | {remat} | {_row(fit(topology, size, remat))} |", flush=True)


def fit(topology: str, size: str, remat: str) -> dict[str, Any]:
    """The prediction of one command."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fit.json"
        command = [
            *(sys.executable, "-m", "biomedgpt_jax", "fit", f"--topology={topology}", f"--json={file}"),
            f"--config={ROOT}/configs/biomedgpt.py:task=vqa,size={size},hardware={topology},rows={ROWS}",
            f"--config.model.remat.layers={remat}",
        ]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | AHEAD, stdout=subprocess.DEVNULL)
        return json.loads(file.read_text())


def _row(found: dict[str, Any]) -> str:
    if found["bytes"] is None:
        return f"needs {found['needed'] / GIB:.2f} | | | |" if found["needed"] else "does not fit | | | |"
    held, speed = found["bytes"], found["speed"]
    times = (
        f"{speed['step_seconds']:.3f} | {ROWS / speed['step_seconds']:,.0f} | {speed['mfu']:.1%}" if speed else "| |"
    )
    return f"{held['peak'] / GIB:.2f} | {held['usable'] / GIB:.2f} | {times}"


if __name__ == "__main__":
    main()
