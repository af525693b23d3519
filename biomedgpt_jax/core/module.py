"""The boundary of Flax NNX: modules describe, everything that runs sees nested dicts of arrays.

Used of NNX: `Module`, `Param`, `Rngs` during construction, `split`/`merge`. Not used: its jit, grad,
scan, optimizers, and state that changes in a call.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from types import EllipsisType
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from biomedgpt_jax.core.sharding import is_split, target_platform
from biomedgpt_jax.core.types import AxesTree, Params

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
M = TypeVar("M", bound=nnx.Module)

# Layers: 4 were 10% faster so, 30 as fast as their loop and three times as long to compile.
WRITTEN_OUT = 8


class Remat(Enum):
    """What is kept of a scanned layer for its backward pass, which computes the rest again."""

    NONE = "none"  # everything is kept
    MINIMAL = "minimal"  # the products with weights, and attention's results
    DOTS = "dots"  # the products with weights
    FULL = "full"  # the input alone
    OFFLOAD = "offload"  # input, queries, keys, values and attention's results, in the host's memory


class Kept(Enum):
    """Values of a layer that a policy can keep by name."""

    INPUT = "layer_input"
    QKV = "qkv"
    ATTENTION = "attention"  # what the softmax mixed, and its normalisers


def keep(x: jax.Array, name: Kept) -> jax.Array:
    """`x`, which a layer's `Remat` may keep."""
    return checkpoint_name(x, name.value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turned:
    """A kernel [*in *out] kept as a matrix [out in], with which XLA's CPU backend multiplies few rows faster.

    With more axes than two it would be turned back for each product.
    """

    array: jax.Array
    outputs: tuple[int, ...] = field(metadata={"static": True})

    def __getitem__(self, every: EllipsisType) -> "Turned":
        """Itself, for `parameter[...]`."""
        return self


def param(
    rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str | None, ...], init: Initializer, *, inputs: int = 0
) -> nnx.Param:
    """A float32 parameter that declares its logical axes where it is made.

    Args:
        inputs: of a kernel that may be `Turned`, how many axes are inputs; they come first.
    """
    if len(shape) != len(axes):
        raise ValueError(f"Shape {shape} has {len(shape)} dimensions, axes {axes} name {len(axes)}.")
    value = init(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, out_sharding=axes, eager_sharding=False, inputs=inputs)


def parameters(module: nnx.Module) -> Params:
    """The module's parameters as a nested dict of arrays."""
    return _to_dict(nnx.state(module), lambda variable: variable.get_value())


@dataclass(frozen=True)
class Functional(Generic[M]):
    """A module constructor turned into pure functions over nested dicts."""

    construct: Callable[[nnx.Rngs], M]

    def init(self, key: jax.Array) -> Params:
        """Float32 parameters; traceable, so it can run under jit with output shardings."""
        return parameters(self.construct(nnx.Rngs(params=key)))

    def axes(self) -> AxesTree:
        """Logical axes of each parameter, as a tree like the parameters."""
        return _to_dict(self._abstract[1], lambda variable: variable.get_metadata()["out_sharding"])

    def bind(self, params: Params) -> M:
        """The module with these parameters; call it inside a pure function and let it go.

        Raises:
            ValueError: `params` has other keys than the module.
        """
        graph, state = self._abstract
        return nnx.merge(graph, _from_dict(state, params))

    def ready(self, params: Params, *, turn: bool) -> Params:
        """The same for `bind`, to answer fast: on a CPU stacks are tuples of layers, with `turn` of turned kernels.

        Each compiled call on the stack itself would copy its layers.
        """
        return self._apart(params, turn) if target_platform() == "cpu" else params

    @partial(jax.jit, static_argnums=(0, 2))
    def _apart(self, params: Params, turn: bool) -> Params:
        def leaf(variable: nnx.Variable) -> Any:
            value, facts = variable.get_value(), variable.get_metadata()
            if facts["out_sharding"][:1] != ("layers",):
                return value
            layers = [_layers(value, number) for number in range(len(jax.tree.leaves(value)[0]))]
            return tuple(_turned(each, facts["inputs"]) if turn and facts["inputs"] else each for each in layers)

        return _to_dict(_from_dict(self._abstract[1], params), leaf)

    @cached_property
    def _abstract(self) -> tuple[Any, Any]:
        return _abstractly(self.construct)


def stack(make_block: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """`count` copies of a block as one module whose parameters carry a leading `layers` axis."""
    graph, _ = _abstractly(make_block)
    keys = jax.random.split(rngs.params(), count)
    stacked = jax.vmap(lambda key: nnx.state(make_block(nnx.Rngs(params=key))))(keys)
    for _, variable in nnx.to_flat_state(stacked):
        variable.set_metadata(out_sharding=("layers", *variable.get_metadata()["out_sharding"]))
    return nnx.merge(graph, stacked)


def scan(
    stacked: M,
    step: Callable[[M, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: Remat = Remat.NONE,
    stop: int | None = None,
) -> tuple[Any, Any]:
    """Runs `step(block, carry, x) -> (carry, y)` over the first `stop` layers by one `lax.scan`.

    On a CPU a shallow stack is written out: XLA's loops there copy each layer's weights out of their stacks, and what
    the backward pass needs into new ones. Recomputation needs the loop. Layers that are apart are always written out.
    """
    graph, state = nnx.split(stacked)
    state = _layers(state, slice(stop))

    def body(carry: Any, slices: Any) -> tuple[Any, Any]:
        block_state, x = slices
        return step(nnx.merge(graph, block_state), carry, x)

    first = jax.tree.leaves(state, is_leaf=_is_apart)[0]
    if _is_apart(first):
        return _one_by_one(body, carry, state, xs)
    if len(first) > WRITTEN_OUT or remat is not Remat.NONE or target_platform() != "cpu":
        return jax.lax.scan(_checkpointed(body, remat), carry, (state, xs))

    def written_out(carry: Any, slices: Any) -> tuple[Any, Any]:
        return body(carry, (jax.tree.map(_with_wide_gradient, slices[0]), slices[1]))

    return jax.lax.scan(written_out, carry, (state, xs), unroll=True)


def of_each(function: Callable[[Any], Any], over: Any) -> Any:
    """`function` of each slice of the first axis of `over`, stacked again.

    All at once; on a single CPU one after the other, so that what a slice needs stays in the cache. The results of such
    a loop are arrays, where XLA may otherwise compute them again in every operation that reads them.
    """
    alone = target_platform() == "cpu" and not is_split("tiles")
    return jax.lax.map(function, over) if alone else jax.vmap(function)(over)


def divide(stacked: M, parts: int) -> tuple[M, ...]:
    """The same layers as several stacks of equal height, in order.

    Their weights are copies where `parts` > 1, unless they are apart already.
    """
    graph, state = nnx.split(stacked)
    height = len(jax.tree.leaves(state, is_leaf=_is_apart)[0]) // parts
    return tuple(
        nnx.merge(graph, _layers(state, slice(first, first + height))) for first in range(0, parts * height, height)
    )


def _one_by_one(body: Callable, carry: Any, state: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan` over layers that are apart."""
    results = []
    for number in range(len(jax.tree.leaves(state, is_leaf=_is_apart)[0])):
        carry, result = body(carry, (_layers(state, number), jax.tree.map(lambda each, n=number: each[n], xs)))
        results.append(result)
    return carry, jax.tree.map(lambda *each: jnp.stack(each), *results)


def _layers(state: Any, which: int | slice) -> Any:
    """Of a stack, or of one that is apart."""
    return jax.tree.map(lambda leaf: leaf[which], state, is_leaf=_is_apart)


def _is_apart(leaf: Any) -> bool:
    return isinstance(leaf, tuple)


def _turned(kernel: jax.Array, inputs: int) -> Turned:
    rows = math.prod(kernel.shape[:inputs])
    return Turned(kernel.reshape(rows, -1).T, kernel.shape[inputs:])


def _abstractly(construct: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Any, Any]:
    """The graph of a module and its state as shapes.

    nnx.eval_shape would read our logical axes as axes of the mesh in context.
    """
    graphs = []

    def build() -> Any:
        graph, state = nnx.split(construct(nnx.Rngs(params=0)))
        graphs.append(graph)
        return state

    state = jax.eval_shape(build)
    return graphs[0], state


def _with_wide_gradient(matrix: jax.Array) -> jax.Array:
    """The same matrix [i *o]; where i is the larger side, its gradient is made as [*o i] and then turned.

    XLA's CPU backend is slow at tall ones: 12 ms for 2,048 tokens and [1024 256], 8 for [256 1024]; for adapters 7 for
    [1024 16], 1.5 for [16 1024]. The barrier keeps it from turning the product back.
    """
    if not jnp.issubdtype(matrix.dtype, jnp.floating) or matrix.ndim < 2 or matrix.shape[0] ** 2 <= matrix.size:
        return matrix
    return jnp.moveaxis(jax.lax.optimization_barrier(jnp.moveaxis(matrix, 0, -1)), -1, 0)


def _checkpointed(body: Callable, remat: Remat) -> Callable:
    if remat is Remat.NONE:
        return body
    # Inside a scan the loop itself keeps XLA from merging the recomputation away.
    return jax.checkpoint(body, policy=_policy(remat), prevent_cse=False)


def _policy(remat: Remat) -> Callable | None:
    policies = jax.checkpoint_policies
    if remat is Remat.MINIMAL:
        attention = policies.save_only_these_names(Kept.ATTENTION.value)
        return policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention)
    if remat is Remat.OFFLOAD:
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[name.value for name in Kept],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return policies.dots_with_no_batch_dims_saveable if remat is Remat.DOTS else None


def _to_dict(state: Any, leaf: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        str(name): leaf(node) if isinstance(node, nnx.Variable) else _to_dict(node, leaf)
        for name, node in state.items()
    }


def _from_dict(state: Any, params: Params) -> Any:
    expected = {str(name): name for name in state}
    if expected.keys() != params.keys():
        raise ValueError(f"Parameters do not match the module: expected {sorted(expected)}, found {sorted(params)}.")
    return nnx.State(
        {
            key: node.replace(params[name]) if isinstance(node, nnx.Variable) else _from_dict(node, params[name])
            for name, key, node in ((name, key, state[key]) for name, key in expected.items())
        }
    )
