"""Our train step against MaxText's, both compiled for TPUs that are not here: python benchmarks/aot_vs_maxtext.py

Text only, Llama-3.1-8B: the same topology, row length, rows per chip, AdamW and full remat, by the same compiler with
its default flags, in one environment that this command makes for MaxText (`--environment`, by uv with Python 3.12).
MaxText goes through its own train_compile; both programs are costed by the same walk (biomedgpt_jax/plan/hlo_cost.py).
Ours takes some minutes a case and is kept by `biomedgpt fit`; MaxText's is kept under --out.

    python benchmarks/aot_vs_maxtext.py --cases v5e-64
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from biomedgpt_jax.core.topology import parse
from biomedgpt_jax.plan.compile import Compiled, Memory
from biomedgpt_jax.plan.prediction import Workload, predict, prediction_json

ROOT = Path(__file__).parents[1]
MAXTEXT = "maxtext[tpu]==0.2.5"
ROWS_PER_CHIP = {"v5e-64": 2, "v5p-32": 4}
ROW_TOKENS = 2048
# What libtpu would ask of a TPU machine, as biomedgpt_jax/plan/target.py sets it for ours.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "DECOUPLE_GCLOUD": "TRUE",  # MaxText without Google Cloud's libraries
    "PYTHONPATH": str(ROOT),
}

# Of a prediction's JSON.
FIGURES = {
    "peak GiB": lambda found: found["bytes"]["peak"] / 2**30,
    "step s": lambda found: found["speed"]["step_seconds"],
    "compute s": lambda found: found["speed"]["compute_seconds"],
    "kernels s": lambda found: found["speed"]["kernel_seconds"],
    "exposed s": lambda found: found["speed"]["exposed_seconds"],
    "sent GB": lambda found: sum(each["bytes"] for each in found["traffic"]) / 1e9,
}


def main() -> None:
    options = arguments()
    python = options.environment / "bin" / "python"
    if not python.exists():
        run("uv", "venv", "--python", "3.12", str(options.environment))
        run("uv", "pip", "install", "--python", str(python), MAXTEXT, "-e", str(ROOT))
    table = Table("topology", "program", *(f"{name}" for name in FIGURES))
    for case in options.cases:
        theirs, ours = maxtext(python, case, options.out), own(python, case, options.out)
        table.add_row(case, "MaxText", *(f"{figure(theirs):.3f}" for figure in FIGURES.values()))
        table.add_row(case, "ours", *(f"{figure(ours):.3f}" for figure in FIGURES.values()))
        shares = [figure(ours) / max(figure(theirs), 1e-9) for figure in FIGURES.values()]
        table.add_row("", "ours / theirs", *(f"{share:.2f}" for share in shares), end_section=True)
    Console(width=140).print(table)


def maxtext(python: Path, case: str, out: Path) -> dict[str, Any]:
    """MaxText's own program, costed by our walk."""
    kept = out / f"maxtext-{case}"
    if not (kept / "facts.json").exists():
        settings = (
            *("model_name=llama3.1-8b", f"compile_topology={case}", "compile_topology_num_slices=1"),
            *(f"per_device_batch_size={ROWS_PER_CHIP[case]}", f"max_target_length={ROW_TOKENS}"),
            *("remat_policy=full", "attention=flash", "opt_type=adamw", "adam_weight_decay=0.0", "adam_b2=0.999"),
            *("dataset_type=synthetic", "enable_checkpointing=false", "run_name=aot", f"base_output_directory={out}"),
        )
        run(str(python), str(ROOT / "benchmarks" / "maxtext_step.py"), str(kept), *settings)
    facts = json.loads((kept / "facts.json").read_text())
    hlo = gzip.decompress((kept / "hlo.gz").read_bytes()).decode()
    made = Compiled(hlo, Memory(**facts["memory"]), facts["seconds"])
    nothing = Workload(tokens=0, images=0, flops=0.0, flops_causal=0.0)
    return prediction_json(predict(made, parse(case), nothing, parameters=0, optimizer=0, batch=0))


def own(python: Path, case: str, out: Path) -> dict[str, Any]:
    """The step of `biomedgpt train`, stage 2, without image slots; a tiny tower stands in for the one not used."""
    written = out / f"ours-{case}.json"
    out.mkdir(parents=True, exist_ok=True)
    run(
        *(str(python), "-m", "biomedgpt_jax", "fit", f"--topology={case}", f"--json={written}"),
        f"--config={ROOT}/configs/llama3_med.py:stage=2,tower=tiny-clip,scales=56,decoder=llama-3.1-8b",
        f"--config.train.batch_rows={ROWS_PER_CHIP[case] * parse(case).devices}",
        *(f"--config.data.row_tokens={ROW_TOKENS}", "--config.data.image_slots=0"),
    )
    return json.loads(written.read_text())


def run(*command: str) -> None:
    print("$", " ".join(command), flush=True)
    # jax has set the path of this environment's libtpu when it was imported here.
    own = {name: value for name, value in os.environ.items() if name != "TPU_LIBRARY_PATH"}
    subprocess.run(command, check=True, env={**own, **ENVIRONMENT}, stdout=sys.stderr)


def arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "biomedgpt_jax" / "maxtext"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(ROWS_PER_CHIP), choices=list(ROWS_PER_CHIP))
    parser.add_argument("--environment", type=Path, default=cache / "environment", help="made where absent")
    parser.add_argument("--out", type=Path, default=cache / "compiled", help="keeps MaxText's programs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
