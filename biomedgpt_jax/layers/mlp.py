"""The two feed-forward blocks: plain (up, down) and gated (gate, up, down)."""

from collections.abc import Callable
from enum import Enum
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from biomedgpt_jax.core.module import Initializer
from biomedgpt_jax.layers.linear import Linear


class Activation(Enum):
    """Names as in Hugging Face configurations."""

    GELU = "gelu"  # exact, by erf
    GELU_TANH = "gelu_pytorch_tanh"
    QUICK_GELU = "quick_gelu"  # x * sigmoid(1.702 x), OpenAI CLIP
    SILU = "silu"
    RELU = "relu"


def activation(kind: Activation) -> Callable[[jax.Array], jax.Array]:
    return _FUNCTIONS[kind]


_FUNCTIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    Activation.GELU: partial(jax.nn.gelu, approximate=False),
    Activation.GELU_TANH: partial(jax.nn.gelu, approximate=True),
    Activation.QUICK_GELU: lambda x: x * jax.nn.sigmoid(1.702 * x),
    Activation.SILU: jax.nn.silu,
    Activation.RELU: jax.nn.relu,
}


class Mlp(nnx.Module):
    """down(act(up(x)))."""

    def __init__(self, width: int, hidden: int, *, act: Activation, bias: bool, init: Initializer, rngs: nnx.Rngs):
        self.up = Linear((width,), (hidden,), in_axes=("embed",), out_axes=("mlp",), bias=bias, init=init, rngs=rngs)
        self.down = Linear((hidden,), (width,), in_axes=("mlp",), out_axes=("embed",), bias=bias, init=init, rngs=rngs)
        self.act = act

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return self.down(activation(self.act)(self.up(x)))


class GatedMlp(nnx.Module):
    """down(act(gate(x)) * up(x)): SwiGLU with SiLU, GeGLU with GELU."""

    def __init__(self, width: int, hidden: int, *, act: Activation, bias: bool, init: Initializer, rngs: nnx.Rngs):
        wide = {"in_axes": ("embed",), "out_axes": ("mlp",), "bias": bias, "init": init, "rngs": rngs}
        self.gate = Linear((width,), (hidden,), **wide)
        self.up = Linear((width,), (hidden,), **wide)
        self.down = Linear((hidden,), (width,), in_axes=("mlp",), out_axes=("embed",), bias=bias, init=init, rngs=rngs)
        self.act = act

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return self.down(_gated(self.act, self.gate(x), self.up(x)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(act: Activation, gate: jax.Array, up: jax.Array) -> jax.Array:
    """act(gate) * up, made again for its gradients.

    Behind the barriers, because XLA would keep each factor from before, and compute the gradients again inside each of
    the four products that read them, tile by tile.
    """
    return activation(act)(gate) * up


def _forward(act: Activation, gate: jax.Array, up: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return activation(act)(gate) * up, (gate, up)


def _backward(act: Activation, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = jax.lax.optimization_barrier(kept)
    _, gradients = jax.vjp(lambda gate, up: activation(act)(gate) * up, *kept)
    return jax.lax.optimization_barrier(gradients(gradient))


_gated.defvjp(_forward, _backward)
