"""A whole run of the toy on a packed Grain pipeline; also a program that tests start and kill.

python tests/train/toy_run.py WORKDIR TOTAL_STEPS SAVE_EVERY SECONDS_PER_STEP POISONED_SAMPLE [COORDINATOR N PROCESS]
"""

import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, str(Path(__file__).parents[2]))

import grain
import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import merge
from biomedgpt_jax.core.placing import Rows, local_rows, place_batch
from biomedgpt_jax.core.processes import finish, join
from biomedgpt_jax.train.loop import LoopSettings
from biomedgpt_jax.train.metrics import jsonl_writer, tensorboard_writer
from biomedgpt_jax.train.recorder import Costs
from biomedgpt_jax.train.run import Run, run_training
from biomedgpt_jax.train.step import loss_sums
from tests.train.toy import PATCHES, PIXELS, SLOTS, WORDS, make_toy, toy_batch, toy_settings

LENGTH, ROWS, SAMPLES = 12, 4, 37
ALL = Rows(0, ROWS, ROWS)


@dataclass(frozen=True)
class Sample(grain.transforms.Map):
    """Sample number -> tokens of a ragged length, an image on the even ones; a poisoned one holds inf."""

    poisoned: int = -1

    def map(self, number):
        rng = np.random.default_rng(number)
        length = int(rng.integers(PATCHES + 1, LENGTH + 1))
        tokens = 1 + (rng.integers(WORDS) + np.arange(length)) % (WORDS - 1)  # a rule that can be learnt
        has_image = number % 2 == 0
        weights = np.ones(length, np.float32)
        if number == self.poisoned:
            weights[-1] = np.inf
        return {
            "tokens": tokens.astype(np.int32),
            "loss_weights": weights,
            "is_image": (np.arange(length) < PATCHES * has_image).astype(np.int32),
            "images": rng.integers(0, 256, (int(has_image), PIXELS, PIXELS, 3)).astype(np.uint8),
            "samples": np.asarray([number + 1], np.int32),
        }


@dataclass(frozen=True)
class ToBatch(grain.transforms.Map):
    rows: Rows

    def map(self, packed):
        packed = {name: array[self.rows.start : self.rows.stop] for name, array in packed.items()}
        is_image = packed["is_image"] == 1
        return {
            "tokens": packed["tokens"],
            "targets": np.roll(packed["tokens"], -1, axis=-1),
            "loss_weights": packed["loss_weights"],
            "segment_ids": packed["tokens_segment_ids"],
            "positions": packed["tokens_positions"],
            "image_index": np.where(is_image, np.cumsum(is_image, axis=-1) - 1, -1).astype(np.int32),
            "images": packed["images"],
            "samples": packed["samples"] - 1,
        }


def packed_data(poisoned=-1, rows=ALL):
    stream = grain.MapDataset.range(SAMPLES).seed(3).shuffle().repeat().map(Sample(poisoned)).to_iter_dataset()
    budget = {"tokens": LENGTH, "loss_weights": LENGTH, "is_image": LENGTH, "images": SLOTS, "samples": 3}
    packed = grain.experimental.FirstFitPackIterDataset(stream, length_struct=budget, num_packing_bins=3)
    return iter(packed.batch(ROWS).map(ToBatch(rows)))


def toy_run(workdir, *, total_steps, save_every=4, log_every=3, mesh_shape=(1, 1), evaluate_every=0):
    toy = make_toy(mesh_shape, total_steps=total_steps, frozen_dtype=jnp.bfloat16)
    run = Run(
        workdir=Path(workdir),
        config={"total_steps": total_steps},
        model=toy.model,
        optimizer=toy.optimizer,
        abstract=toy.abstract,
        mesh=toy.mesh,
        step=toy_settings(micro_batches=2),
        loop=LoopSettings(total_steps, log_every, save_every, evaluate_every),
        keep_checkpoints=2,
        late_gradients=lambda path: False,
        unused=lambda path: False,
        expects_images=True,
        costs=Costs({"tokens": 1e3, "images": 1e4}, peak_flops=1e12),
        profile=None,
    )
    return toy, run


def train_toy(workdir, *, poisoned=-1, seconds_per_step=0.0, model=None, data=None, **options):
    toy, run = toy_run(workdir, **options)
    rows = local_rows(toy.mesh, ROWS)
    sums = jax.jit(lambda state, batch: loss_sums(toy.model, merge(state.trainable, state.frozen), batch, run.step))

    def evaluate(state):
        with jax.set_mesh(toy.mesh):
            held_out = sums(state, place_batch(toy_batch(5, rows=ROWS, length=LENGTH), toy.mesh))
        return {"heldout/loss": float(held_out.loss / held_out.weight)}

    def slowed(rows):
        time.sleep(seconds_per_step)

    return run_training(
        replace(run, model=model or toy.model),
        data or packed_data(poisoned, rows),
        rows,
        start=lambda: jax.jit(toy.model.init)(jax.random.key(0)),
        writers=lambda restored: [
            jsonl_writer(Path(workdir) / "metrics.jsonl", restored_step=restored),
            tensorboard_writer(Path(workdir) / "tensorboard", restored_step=restored),
            nullcontext(slowed),
        ],
        sample_name=lambda number: f"sample-{number}",
        evaluate=evaluate,
    )


if __name__ == "__main__":
    workdir, total_steps, save_every, seconds_per_step, poisoned, *cluster = sys.argv[1:]
    if cluster:
        join(cluster[0], int(cluster[1]), int(cluster[2]))
    try:
        outcome = train_toy(
            workdir,
            total_steps=int(total_steps),
            save_every=int(save_every),
            log_every=1,
            mesh_shape=(2, 4) if jax.device_count() == 8 else (1, 1),
            seconds_per_step=float(seconds_per_step),
            poisoned=int(poisoned),
        )
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    finish()
    print("finished" if outcome.finished else "stopped", outcome.step)
