"""What a run starts with and what its first steps read, as one file for another trainer.

    python benchmarks/vqa_rad_small/first_steps.py --run=runs/official.stage2 --steps=50 --out=first_steps.npz

Arrays: `trainable/<path>` (the parameters before the first step) and `batch/<step>/<name>`; `facts` is JSON: the
optimizer's settings, the steps of the whole run, the adapters, and the loss that the run logged at each step.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from biomedgpt_jax.core.partition import leaf_paths, split
from biomedgpt_jax.data.features import FeatureCache
from biomedgpt_jax.data.pipeline import TrainData
from biomedgpt_jax.verbs.model_spec import ModelSpec
from biomedgpt_jax.verbs.spec_file import read_spec
from biomedgpt_jax.verbs.starting_weights import start_params
from biomedgpt_jax.verbs.train import build_parts
from biomedgpt_jax.verbs.training_data import reading, run_tokenizer, splits, training_data


def main() -> None:
    arguments = _arguments()
    config = ConfigDict(json.loads((arguments.run / "config.json").read_text()))
    spec, features = read_spec(arguments.run, ModelSpec), FeatureCache(config.data.features).reader(splits(config))
    tokenizer = run_tokenizer(config, arguments.run)
    data = training_data(config, spec, tokenizer, arguments.run, lambda *_: None, features.feature_shape)
    arrays = _trainable(config, spec, data.num_steps)
    batches = data.batches(features, reading(config))
    steps = min(arguments.steps, data.num_steps)
    for step in range(steps):
        batch = next(batches)
        arrays |= {f"batch/{step}/{name}": array for name, array in batch.items() if name != "samples"}
    batches.close()
    arrays["facts"] = np.array(json.dumps(_facts(config, data, arguments.run, steps)))
    np.savez(arguments.out, **arrays)
    print(f"{arguments.out}: {steps} of {data.num_steps} steps of {arguments.run}")


def _trainable(config: ConfigDict, spec: ModelSpec, steps: int) -> dict[str, np.ndarray]:
    parts = build_parts(config, steps)
    with jax.set_mesh(parts.mesh):
        trainable, _ = split(start_params(config, spec, parts.mesh, print), parts.is_trainable)
    return {f"trainable/{path}": np.asarray(leaf) for path, leaf in leaf_paths(trainable).items()}


def _facts(config: ConfigDict, data: TrainData, run: Path, steps: int) -> dict[str, Any]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    return {
        "optim": json.loads(config.optim.to_json()),
        "lora": json.loads(config.lora.to_json()),
        "total_steps": data.num_steps,
        "losses": [losses[step] for step in range(1, steps + 1)],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="workdir of a run that has taken these steps")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
