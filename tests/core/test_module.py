import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from biomedgpt_jax.core.module import Functional, Remat, divide, param, scan, stack
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.layers.linear import Linear

NORMAL = jax.nn.initializers.normal(0.5)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.kernel = param(rngs, (3, 3), ("embed", "mlp"), NORMAL)
        self.bias = param(rngs, (3,), ("mlp",), NORMAL)

    def __call__(self, x):
        return jnp.tanh(jnp.einsum("bd,de->be", x, self.kernel[...]) + self.bias[...])


class Tower(nnx.Module):
    def __init__(self, rngs, remat=Remat.NONE, stop=None):
        self.layers = stack(Block, 4, rngs)
        self.last = Block(rngs)
        self.remat, self.stop = remat, stop

    def __call__(self, x):
        x, _ = scan(self.layers, lambda block, x, _: (block(x), None), x, remat=self.remat, stop=self.stop)
        return self.last(x)


def by_hand(params, x, layers):
    for i in range(layers):
        x = np.tanh(x @ params["layers"]["kernel"][i] + params["layers"]["bias"][i])
    return np.tanh(x @ params["last"]["kernel"] + params["last"]["bias"])


@pytest.mark.parametrize("remat", list(Remat))
@pytest.mark.parametrize("stop", [None, 2, -1])
def test_a_scanned_stack_is_its_layers_in_order(remat, stop):
    functional = Functional(lambda rngs: Tower(rngs, remat, stop))
    params = functional.init(jax.random.key(0))
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    run = {None: 4, 2: 2, -1: 3}[stop]
    expected = by_hand(jax.tree.map(np.asarray, params), x, run)
    np.testing.assert_allclose(jax.jit(lambda p: functional.bind(p)(x))(params), expected, rtol=1e-5)
    gradient = jax.grad(lambda p: functional.bind(p)(x).sum())(params)["layers"]["kernel"]
    assert [bool(jnp.any(layer)) for layer in gradient] == [i < run for i in range(4)]


def test_tall_kernels_of_a_written_out_stack_have_the_gradients_of_the_loop():
    """On a CPU they are made turned, of layers that are not recomputed alone."""

    class Tall(nnx.Module):
        def __init__(self, rngs):
            self.wide, self.tall = (param(rngs, shape, (None,) * 3, NORMAL) for shape in ((2, 3, 5), (6, 2, 1)))

        def __call__(self, x):
            h = jnp.tanh(jnp.einsum("bi,ijk->bjk", x, self.wide[...]))[:, :2, :3].reshape(-1, 6)
            return x + jnp.einsum("bi,ijk->bj", h, self.tall[...])

    def gradients(remat):
        def loss(params):
            layers = functional.bind(params)
            return jnp.sum(scan(layers, lambda block, x, _: (block(x), None), x, remat=remat)[0] ** 2)

        return jax.jit(jax.grad(loss))(params)

    functional = Functional(lambda rngs: stack(Tall, 2, rngs))
    params, x = functional.init(jax.random.key(0)), np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    written_out, loop = gradients(Remat.NONE), gradients(Remat.FULL)
    for name in ("wide", "tall"):
        np.testing.assert_allclose(written_out[name], loop[name], rtol=1e-5, atol=1e-6)


def test_axes_follow_the_parameters():
    functional = Functional(Tower)
    assert functional.axes() == {
        "layers": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")},
        "last": {"kernel": ("embed", "mlp"), "bias": ("mlp",)},
    }
    shapes = jax.tree.map(jnp.shape, functional.init(jax.random.key(0)), is_leaf=lambda x: hasattr(x, "shape"))
    assert shapes["layers"] == {"kernel": (4, 3, 3), "bias": (4, 3)}


def test_logical_axes_are_no_mesh_axes():
    """Under a mesh, construction, axes and binding work as without one."""
    with jax.set_mesh(make_mesh(MeshShape(data=1, fsdp=4, tensor=2, context=1))):
        functional = Functional(Tower)
        params = functional.init(jax.random.key(0))
        assert functional.axes()["last"]["bias"] == ("mlp",)
        assert functional.bind(params)(jnp.ones((2, 3))).shape == (2, 3)


def test_layers_start_different():
    kernels = Functional(Tower).init(jax.random.key(0))["layers"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])


def test_other_keys_are_refused():
    functional = Functional(Tower)
    params = functional.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"expected \['last', 'layers'\], found \['last'\]"):
        functional.bind({"last": params["last"]})


def test_axes_must_name_every_dimension():
    with pytest.raises(ValueError, match="has 2 dimensions"):
        param(nnx.Rngs(params=0), (2, 3), ("embed",), NORMAL)


def test_layers_apart_and_turned_compute_the_same():
    """Kernels with several axes of inputs or outputs."""
    functional = Functional(Mixer)
    params = functional.init(jax.random.key(0))
    ready = functional.ready(params, turn=True)
    kernels = ready["layers"]["out"]["kernel"]
    assert [kernel.array.shape for kernel in kernels] == [(5, 6)] * 3
    np.testing.assert_array_equal(kernels[1].array, params["layers"]["out"]["kernel"][1].reshape(6, 5).T)
    assert functional.ready(params, turn=False)["layers"]["out"]["kernel"][2].shape == (2, 3, 5)
    x = jnp.linspace(-1, 1, 10).reshape(2, 5)
    run = jax.jit(lambda params: functional.bind(params)(x))
    (expected, middle), (found, found_middle) = run(params), run(ready)
    assert middle.shape == (3, 2, 2, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found_middle, middle, atol=1e-6)
    halves = jax.jit(lambda params: divided(functional.bind(params), x))
    np.testing.assert_allclose(halves(ready), expected, atol=1e-6)


class Mixer(nnx.Module):
    def __init__(self, rngs):
        self.layers = stack(MixerLayer, 3, rngs)

    def __call__(self, x):
        return scan(self.layers, lambda layer, x, _: layer(x), x)


class MixerLayer(nnx.Module):
    def __init__(self, rngs):
        ways = {"bias": True, "init": NORMAL, "rngs": rngs}
        self.read = Linear((5,), (2, 3), in_axes=("embed",), out_axes=("heads", "head_dim"), **ways)
        self.out = Linear((2, 3), (5,), in_axes=("heads", "head_dim"), out_axes=("embed",), **ways)

    def __call__(self, x):
        middle = jnp.tanh(self.read(x))
        return x + self.out(middle), middle


def divided(mixer, x):
    for run in divide(mixer.layers, 3):
        x, _ = scan(run, lambda layer, x, _: layer(x), x)
    return x
