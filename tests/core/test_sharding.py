import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shard, shardings, spec


def test_minus_one_takes_what_is_left():
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=2, context=1))
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2, "context": 1}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (MeshShape(1, -1, 3, 1), "does not fit 8 devices: the sizes multiply to 3"),
        (MeshShape(1, 4, 1, 1), "multiply to 4"),
        (MeshShape(-1, -1, 1, 1), "at most one axis may be -1"),
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
