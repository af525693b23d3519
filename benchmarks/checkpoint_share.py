"""What saving in the background costs a training: python benchmarks/checkpoint_share.py

One model, one state, one loop, twice in turn: without saves, and with a checkpoint every so many steps, into the same
RunCheckpoints that training uses (Orbax, with the data iterator and the record). The share is the extra wall time, to
the moment when the last checkpoint is whole on disk. On one CPU core, where the writer takes its time from the steps,
it is at its worst. The default saves 5 MB a second: as much as each of 8 hosts that train all of an 8B model do.
"""

import argparse
import tempfile
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from timing import machine

from biomedgpt_jax.checkpoint.run import RunCheckpoints
from biomedgpt_jax.core.types import TrainState

STEPS, ROUNDS = 300, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--megabytes", type=int, default=48, help="state of a checkpoint: weights and two moments")
    parser.add_argument("--every", type=int, default=150, help="steps between saves")
    settings = parser.parse_args()
    state, step = _training(settings.megabytes)
    state, _ = step(state)  # compiles
    shares, costs, blocked, plain_step = [], [], [], 0.0
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            state, plain, _ = _train(state, step, Path(folder), every=0)
            state, saving, waited = _train(state, step, Path(folder), every=settings.every)
        shares.append(saving / plain - 1)
        costs.append((saving - plain) / (STEPS // settings.every))
        blocked.append(waited / (STEPS // settings.every))
        plain_step = plain / STEPS
    middle = ROUNDS // 2
    spread = f"{sorted(shares)[middle]:+.1%} ({min(shares):+.1%} to {max(shares):+.1%})"
    seconds = (f"{sorted(figures)[middle]:.3f}" for figures in (costs, blocked))
    table = Table("state, MB", "s/step", "s between saves", "s per save", "of it blocked", "share", title=machine())
    interval = f"{plain_step * settings.every:.1f}"
    table.add_row(str(settings.megabytes), f"{plain_step:.3f}", interval, *seconds, spread)
    Console().print(table)


def _training(megabytes: int):
    """A state of so many megabytes, a third of them weights, and a step that reads and writes all of it."""
    width = 1024
    layers = max(1, megabytes * 2**20 // (3 * 4 * width * width))
    keys = jax.random.split(jax.random.key(0), layers)
    weights = {f"layer_{n}": {"kernel": jax.random.normal(keys[n], (width, width))} for n in range(layers)}
    moments = jax.tree.map(jnp.zeros_like, {"mu": weights, "nu": weights})
    batch = jax.random.normal(jax.random.key(1), (256, width))

    def loss(weights):
        x = batch
        for layer in weights.values():
            x = jnp.tanh(jnp.einsum("bd,de->be", x, layer["kernel"]) / width**0.5)
        return jnp.mean(x * x)

    def update(state: TrainState) -> tuple[TrainState, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(state.trainable)
        mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.opt_state["mu"], gradient)
        nu = jax.tree.map(lambda n, g: 0.99 * n + 0.01 * g * g, state.opt_state["nu"], gradient)
        weights = jax.tree.map(lambda w, m, n: w - 1e-3 * m / (jnp.sqrt(n) + 1e-8), state.trainable, mu, nu)
        return TrainState(state.step + 1, weights, state.frozen, {"mu": mu, "nu": nu}), value

    return TrainState(jnp.int32(0), weights, {}, moments), jax.jit(update, donate_argnums=0)


def _train(state: TrainState, step, folder: Path, every: int) -> tuple[TrainState, float, float]:
    """The state after STEPS steps, the seconds that they took, and how long the loop stood still to save."""
    data = iter(grain.MapDataset.range(10 * STEPS).to_iter_dataset())
    begun, blocked = time.perf_counter(), 0.0
    with RunCheckpoints(folder, keep=1) as checkpoints:
        for number in range(1, STEPS + 1):
            next(data)
            state, value = step(state)
            jax.block_until_ready(value)
            if every and number % every == 0:
                since = time.perf_counter()
                checkpoints.save(number, state, data, config={}, base="")
                blocked += time.perf_counter() - since
    return state, time.perf_counter() - begun, blocked


if __name__ == "__main__":
    main()
