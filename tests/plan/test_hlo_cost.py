"""The walk over optimized programs against numbers worked out by hand, on programs compiled for v5e."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.topology import parse as parse_topology
from biomedgpt_jax.layers.splash_attention import splash_attention
from biomedgpt_jax.plan.hlo import Module, parse
from biomedgpt_jax.plan.hlo_cost import Channel, program_cost, trip_count
from biomedgpt_jax.plan.kernels import kernel_flops
from biomedgpt_jax.plan.prediction import machine

LAYERS, WIDTH, ROWS = 5, 2048, 4096
V5E = machine(parse_topology("v5e-4"))
FLOPS_PER_CYCLE = 4 * 2 * 128 * 128  # four matrix units of 128 x 128


@pytest.fixture(scope="module")
def layers_program(v5e_4) -> Module:
    """Five layers x @ w in a scan, the weights split over four devices, each with its own rows of x."""
    mesh = Mesh(np.array(v5e_4), ("fsdp",))

    def placed(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    def run(x, weights):
        x, _ = jax.lax.scan(lambda x, w: (jnp.dot(x, w, preferred_element_type=jnp.bfloat16), None), x, weights)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("fsdp")))

    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):
        lowered = jax.jit(run).lower(
            placed((4 * ROWS, WIDTH), "fsdp"), placed((LAYERS, WIDTH, WIDTH), None, "fsdp", None)
        )
        return parse(lowered.compile().as_text() or "")


def test_cycles_count_every_run_of_a_loop(layers_program):
    cost = program_cost(layers_program, V5E)
    ideal = LAYERS * 2 * ROWS * WIDTH**2 / FLOPS_PER_CYCLE
    # More than the ideal, since the loop also copies x; counted once, a layer would be a fifth of it.
    assert ideal <= cost.cycles <= 2 * ideal
    assert cost.unpriced.total() == 0


def test_loops_run_as_often_as_their_condition_says(layers_program):
    every = (each for part in layers_program.computations.values() for each in part.instructions)
    assert [trip_count(layers_program, each) for each in every if each.opcode == "while"] == [LAYERS]


def test_bytes_of_gathered_weights(layers_program):
    traffic = program_cost(layers_program, V5E).traffic
    gathered = sum(each.bytes for channel, each in traffic.items() if channel.kind == "all-gather")
    assert gathered == LAYERS * WIDTH**2 * 2 * 3 / 4
    assert all(channel.devices == 4 and not channel.between_slices for channel in traffic)


def test_communication_hides_behind_compute(layers_program):
    cost = program_cost(layers_program, V5E)
    alone = sum(each.seconds for each in cost.traffic.values())
    compute = cost.cycles / V5E.clock
    assert max(alone, compute) <= cost.seconds <= alone + compute


def attention_program(devices, tokens: int) -> Module:
    """Splash attention forward and backward, two rows on each device, 8 heads over 2."""
    mesh = make_mesh(MeshShape(data=1, fsdp=4, tensor=1, context=1), devices)

    def placed(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))

    def run(q, k, v, segments):
        mixed = splash_attention(q, k, v, segment_ids=segments, scale=1.0)
        return jnp.sum(mixed.astype(jnp.float32))

    kv, segments = placed(8, tokens, 2, 128), placed(8, tokens, dtype=jnp.int32)
    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):
        lowered = jax.jit(jax.grad(run, (0, 1, 2))).lower(placed(8, tokens, 8, 128), kv, kv, segments)
        return parse(lowered.compile().as_text() or "")


@pytest.mark.parametrize(
    ("tokens", "computed", "products"),
    [
        (1024, 3 / 4, [2, 3, 4]),  # of four blocks one is hidden; forward, and backward in two kernels
        (512, 1, [2, 5]),  # one block; backward in one kernel
    ],
)
def test_flops_of_attention_kernels_count_what_the_mask_leaves(v5e_4, tokens, computed, products):
    module = attention_program(v5e_4, tokens)
    every = (each for part in module.computations.values() for each in part.instructions)
    found = [flops for each in every if (flops := kernel_flops(each)) is not None]
    product = 2 * 2 * 8 * tokens * tokens * 128 * computed
    assert sorted(found) == [number * product for number in products]
    cost = program_cost(module, V5E)
    assert cost.kernel_seconds == pytest.approx(sum(products) * product / (0.5 * 197e12))


GROUPS = [
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4, False),
    ("replica_groups=[4,2]<=[8]", 2, False),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", 2, True),  # 0 with 4
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4, False),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", 2, True),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", 4, False),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", 2, True),
    ("replica_groups=[1,8]<=[8]", 8, True),
]


@pytest.mark.parametrize(("groups", "devices", "between_slices"), GROUPS)
def test_who_takes_part_and_what_is_sent(groups, devices, between_slices):
    module = parse(
        "HloModule m\n\nENTRY %main (p: f32[1024]) -> f32[1024] {\n"
        "  %p = f32[1024]{0} parameter(0)\n"
        f"  ROOT %sum = f32[1024]{{0:T(1024)}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add\n}}\n"
    )
    two_slices = replace(V5E, slice_devices=4, slice_speed=1e6, network_speed=1e3)
    ((channel, traffic),) = program_cost(module, two_slices).traffic.items()
    assert channel == Channel("all-reduce", devices, between_slices, asynchronous=False)
    sent = 2 * 4096 * (devices - 1) / devices
    assert traffic.bytes == sent
    assert traffic.seconds == pytest.approx(sent / (1e3 if between_slices else 1e6))


def test_asynchronous_collectives_delay_the_step_by_what_compute_does_not_hide():
    """1000 cycles beside 4096 * 3/4 bytes, then as many cycles after their end."""
    module = parse(
        "HloModule m\n\nENTRY %main (p: f32[256]) -> f32[1024] {\n"
        "  %p = f32[256]{0} parameter(0)\n"
        "  %start = (f32[256]{0}, f32[1024]{0}) all-gather-start(%p), replica_groups=[1,4]<=[4], dimensions={0}\n"
        '  %a = f32[1024]{0} copy(%p), backend_config={"window_config":{"estimated_cycles":"1000"}}\n'
        "  %end = f32[1024]{0} all-gather-done(%start)\n"
        '  ROOT %b = f32[1024]{0} copy(%end), backend_config={"window_config":{"estimated_cycles":"1000"}}\n}\n'
    )
    for speed, seconds in ((3072e6, 2e-6), (768e6, 4e-6 + 1e-6)):
        cost = program_cost(module, replace(V5E, clock=1e9, slice_speed=speed))
        assert cost.seconds == pytest.approx(seconds)
        assert sum(each.bytes for each in cost.traffic.values()) == pytest.approx(3072)
