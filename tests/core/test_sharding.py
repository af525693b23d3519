import math

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import PartitionSpec as P

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import MeshShape, check_divides, make_mesh, shard, shardings, spec


def test_minus_one_takes_what_is_left():
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=2, context=1))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2, "context": 1}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (MeshShape(1, -1, 3, 1), "tensor=3 does not fit 8 devices: .* multiply to 3; nearest that fit: 2, 4"),
        (MeshShape(1, 4, 1, 1), "fsdp=4 does not fit 8 devices: .* multiply to 4; nearest that fit: 8"),
        (MeshShape(2, 8, 1, 1), "fsdp=8 does not fit 8 devices: .* multiply to 16; nearest that fit: 4"),
        (MeshShape(-1, -1, 1, 1), "at most one axis may be -1"),
        (MeshShape(1, -1, 0, 1), "tensor=0: expected 1 or more"),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(shape, message):
    with pytest.raises(UsageError, match=message):
        make_mesh(shape)


def test_a_misspelt_axis_raises():
    with pytest.raises(KeyError, match="embd"):
        spec(("embd", None))
    with pytest.raises(KeyError, match="lenght"):
        shard(jnp.zeros((2, 2)), "batch", "lenght")


def test_constraints_are_on_under_a_mesh():
    mesh = make_mesh(MeshShape(data=1, fsdp=4, tensor=2, context=1))
    with jax.set_mesh(mesh):
        out = jax.jit(lambda x: shard(x, "batch", "activation_heads"))(jnp.zeros((8, 4)))
    assert out.sharding.spec == P("fsdp", "tensor")  # jax leaves out axes of one device


def test_a_dimension_that_does_not_divide_is_replicated():
    mesh = make_mesh(MeshShape(data=1, fsdp=4, tensor=2, context=1))
    axes = {"a": ("embed", "mlp"), "b": ("embed",)}
    shapes = {"a": jax.ShapeDtypeStruct((8, 6), jnp.float32), "b": jax.ShapeDtypeStruct((6,), jnp.float32)}
    placed = shardings(mesh, axes, shapes)
    assert placed["a"].shard_shape((8, 6)) == (2, 3)
    assert placed["b"].shard_shape((6,)) == (6,)


ATTENTION = {
    "decoder": {"k": ("layers", "embed", "kv_heads", "head_dim"), "q": ("layers", "embed", "heads", "head_dim")}
}


@pytest.mark.parametrize(
    ("mesh", "kv_heads", "width", "message"),
    [
        ((1, 2, 3, 1), 8, 48, "tensor=3 does not divide the 8 kv_heads of decoder/k .* nearest that fit: 2[.]"),
        ((1, 2, 4, 1), 6, 48, "tensor=4 does not divide the 6 kv_heads of decoder/k .* nearest that fit: 2[.]"),
        ((1, 8, 1, 1), 8, 4100, "fsdp=8 does not divide the 4100 embed of decoder/q .* nearest that fit: 4[.]"),
        ((1, 1, 1, 8), 8, 4100, "context=8 does not divide the 4100 embed of decoder/q .* nearest that fit: 4[.]"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_named(mesh, kv_heads, width, message):
    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    shapes = {"decoder": {"k": shape(2, width, kv_heads, 8), "q": shape(2, width, 32, 128)}}
    mesh = make_mesh(MeshShape(*mesh), jax.devices()[: math.prod(mesh)])
    with pytest.raises(UsageError, match=message):
        check_divides(mesh, ATTENTION, shapes)


def test_what_is_small_may_stay_whole():
    shapes = jax.tree.map(
        lambda _: jax.ShapeDtypeStruct((2, 4100, 8, 8), jnp.float32), ATTENTION, is_leaf=lambda x: isinstance(x, tuple)
    )
    mesh = make_mesh(MeshShape(1, 8, 1, 1))
    check_divides(mesh, ATTENTION, shapes)
    assert shardings(mesh, ATTENTION, shapes)["decoder"]["q"].is_fully_replicated


@pytest.fixture
def topology(monkeypatch):
    """Devices of TPU slices that this machine does not have, by libtpu's names."""
    pytest.importorskip("libtpu", reason="the layout of TPU slices is known to libtpu")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return lambda name, **options: topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


def test_the_data_axis_runs_over_slices(topology):
    devices = topology("v5e:2x2", num_slices=2)
    mesh = make_mesh(MeshShape(data=2, fsdp=-1, tensor=2, context=1), devices)
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] == [{0}, {1}]
    with pytest.raises(UsageError, match="data=1 does not divide over 2 slices; nearest that fit: 2"):
        make_mesh(MeshShape(data=1, fsdp=-1, tensor=1, context=1), devices)


def test_a_mesh_axis_may_be_part_of_an_axis_of_the_chips(topology):
    devices = topology("v6e:8x8")
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=2, context=1), devices)
    for pair in mesh.devices.reshape(-1, 2):
        (x, y, _), (u, v, _) = (device.coords for device in pair)
        assert abs(x - u) + abs(y - v) == 1  # neighbours
