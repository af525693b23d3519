"""Peak memory of reference trainings against stored figures: python benchmarks/memory_regression.py

Each is compiled by `biomedgpt fit` for TPUs that are not here, some minutes of one core. More than 3% off, to either
side, fails; --update stores what was found. A tiny one runs in the tests (tests/verbs/test_fit.py).

    python benchmarks/memory_regression.py --cases stage1-v5e-64 --update
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
STORED = ROOT / "benchmarks" / "memory_regression.json"
TOLERANCE = 0.03
# One row for each chip, of these sizes.
ROW = ("--config.data.row_tokens=4096", "--config.data.image_slots=8")
CASES = {
    "stage1-v5e-64": ("stage=1", "v5e-64", 64),
    "stage1-v6e-64": ("stage=1", "v6e-64", 64),
    "stage2-v5e-64": ("stage=2", "v5e-64", 64),
    "stage2-v6e-64": ("stage=2", "v6e-64", 64),
    "stage2-lora-v5e-16": ("stage=2,tune=lora", "v5e-16", 16),
}


def main() -> int:
    options = arguments()
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    failed = False
    for case in options.cases:
        found = peak(case)
        expected = stored.get(case)
        off = None if expected is None else found / expected - 1
        wrong = off is None or abs(off) > TOLERANCE
        against = "nothing stored" if off is None else f"{off:+.1%} of {expected / 2**30:.3f} GiB stored"
        print(
            f"{case}: {found / 2**30:.3f} GiB, {against}{' WRONG' if wrong and not options.update else ''}", flush=True
        )
        if options.update:
            stored[case] = found
            STORED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        else:
            failed |= wrong
    return int(failed)


def peak(case: str) -> int:
    """Bytes of one device."""
    config, topology, rows = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "biomedgpt_jax", "fit", f"--config={ROOT}/configs/llama3_med.py:{config}"),
                *(f"--topology={topology}", f"--config.train.batch_rows={rows}", *ROW, f"--json={out}"),
            ],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        found = json.loads(out.read_text())
    if not found["bytes"]:
        raise SystemExit(f"{case} does not fit: {found['message']}")
    return found["bytes"]["peak"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--update", action="store_true", help="store what is found")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
