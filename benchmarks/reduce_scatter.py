"""How a compiler reduces the gradients of split weights, by topology: python benchmarks/reduce_scatter.py

Layers whose weights lie over all chips, as fsdp lays them; each chip has rows of its own. Three ways to write it: left
to the partitioner; by hand with one gather over all chips, whose gradient is one reduce-scatter; by hand with a gather
over each side of the grid of chips in turn. An all-reduce sends twice what a reduce-scatter does. Nothing is run; the
programs are compiled for TPUs that are not here and counted by biomedgpt_jax/plan.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from biomedgpt_jax.core.topology import Topology, parse
from biomedgpt_jax.plan.hlo import parse as parse_hlo
from biomedgpt_jax.plan.hlo_cost import Cost, program_cost
from biomedgpt_jax.plan.prediction import machine
from biomedgpt_jax.plan.target import target_devices

LAYERS, WIDTH, ROWS = 4, 4096, 2048
BOTH = ("a", "b")  # the sides of the grid
# Loops of permutes in the place of gathers and scatters would hide what is asked for here.
FLAGS: dict[str, str | bool] = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=["v5e-4", "v5e-16", "v5e-32", "v5e-64", "v6e-64"])
    table = Table("topology", "written", "reduced by (devices, times)", "sent for it MB", "in full MB", "step ms")
    full = LAYERS * WIDTH * WIDTH * 2 / 1e6
    for name in parser.parse_args().topologies:
        topology = parse(name)
        for written, gathers in (("by the partitioner", None), ("one gather", (BOTH,)), ("two gathers", ("b", "a"))):
            cost = program_cost(parse_hlo(compiled(topology, gathers)), machine(topology))
            found = {key: each for key, each in cost.traffic.items() if "reduce" in key.kind}
            kinds = ", ".join(f"{key.kind} ({key.devices}, {each.count:g})" for key, each in found.items())
            sent = sum(each.bytes for each in found.values()) / 1e6
            table.add_row(name, written, kinds, f"{sent:.0f}", f"{full:.0f}", f"{milliseconds(cost):.1f}")
    Console(width=140).print(table)


def milliseconds(cost: Cost) -> float:
    return 1e3 * cost.seconds


def compiled(topology: Topology, gathers: tuple | None) -> str:
    """The text of one step of gradient descent."""
    devices = target_devices(topology)
    mesh = Mesh(mesh_utils.create_device_mesh(topology.grid, devices), BOTH)

    def placed(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, spec)

    split, rows = PartitionSpec(None, BOTH, None), PartitionSpec(BOTH)

    def layers(weights: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            w = w.astype(jnp.bfloat16)
            for axis in gathers or ():
                w = jax.lax.all_gather(w, axis, axis=0, tiled=True)
            x = jax.nn.silu(x @ w)
            return (x if gathers else jax.lax.with_sharding_constraint(x, placed(rows))), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), x, weights)[0].astype(jnp.float32))

    def by_hand(weights: jax.Array, x: jax.Array) -> jax.Array:
        def local(weights: jax.Array, x: jax.Array) -> jax.Array:
            return layers(weights, x)[None]

        run: Any = jax.shard_map(local, mesh=mesh, in_specs=(split, rows), out_specs=rows, check_vma=False)
        return jnp.sum(run(weights, x))

    def step(weights: jax.Array, x: jax.Array) -> jax.Array:
        return weights - 0.1 * jax.grad(by_hand if gathers else layers)(weights, x)

    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=placed(split))
    x = jax.ShapeDtypeStruct((ROWS * len(devices), WIDTH), jnp.bfloat16, sharding=placed(rows))
    with jax.set_mesh(mesh):
        lowered = jax.jit(step, out_shardings=weights.sharding, donate_argnums=0).lower(weights, x)
        return lowered.compile(compiler_options=FLAGS).as_text() or ""


if __name__ == "__main__":
    main()
