"""Few rows times a large matrix on a CPU: python benchmarks/few_rows.py [shape ...]

`layers.linear.contract` with a kernel [out in], as when a model answers, against the same product as XLA would do it
with the rows first, in turn. The matrices do not fit the processor's caches, as those of a model together do not.
"""

from functools import partial

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from timing import chosen, compare, machine, software

from biomedgpt_jax.layers.linear import contract

SHAPES = {"head": (59_392, 768), "mlp": (14_848, 3_072)}  # outputs, inputs
ROWS = (1, 2, 4, 5, 8)


def main() -> None:
    console, shapes = Console(width=120), chosen(SHAPES)
    console.print(f"float32; {software('jax')}; {machine()}")
    table = Table("shape", "rows", "ours, ms", "rows first, ms", "ratio")
    for name, (outputs, inputs) in shapes.items():
        kernel = jax.random.normal(jax.random.key(0), (outputs, inputs))
        for rows in ROWS:
            x = jax.random.normal(jax.random.key(1), (rows, inputs))
            figures = compare(partial(run, ours, x, kernel), partial(run, rows_first, x, kernel), rounds=9, calls=3)
            table.add_row(name, str(rows), f"{1e3 * figures.ours:.1f}", f"{1e3 * figures.theirs:.1f}", figures.spread)
    console.print(table)


ours = jax.jit(partial(contract, axes=(1,)))
rows_first = jax.jit(partial(jnp.einsum, "ri,oi->ro"))


def run(product, x: jax.Array, kernel: jax.Array) -> None:
    jax.block_until_ready(product(x, kernel))


if __name__ == "__main__":
    main()
