"""The training state as shapes and shardings first, as arrays second.

Everything that must agree about the state (jit, checkpoints, the ledger) is derived from the abstract one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from biomedgpt_jax.core.partition import leaf_paths, merge, split
from biomedgpt_jax.core.sharding import check_divides, shardings
from biomedgpt_jax.core.types import ModelFns, Params, TrainState
from biomedgpt_jax.train.optim import Optimizer, like_optimizer_state


def abstract_state(
    model: ModelFns,
    optimizer: Optimizer,
    is_trainable: Callable[[str], bool],
    *,
    mesh: Mesh,
    frozen_dtype: DTypeLike,
    averaged: bool = False,
) -> TrainState:
    """A TrainState of `ShapeDtypeStruct`s that carry their shardings; nothing is allocated.

    Trainable leaves and running statistics keep the model's float32, floating frozen leaves take `frozen_dtype`.

    Args:
        is_trainable: asked of all but the running statistics.
        averaged: whether a moving average of the trainable leaves is kept.

    Raises:
        UsageError: the mesh does not divide the model.
    """
    shapes, axes = jax.eval_shape(model.init, jax.random.key(0)), model.axes()
    check_divides(mesh, axes, shapes)
    placed = jax.tree.map(_placed, shapes, shardings(mesh, axes, shapes))
    statistics, params = split(placed, model.is_statistic)
    trainable, frozen = split(params, is_trainable)
    everywhere = NamedSharding(mesh, PartitionSpec())
    moments = jax.eval_shape(optimizer.transform.init, trainable)
    opt_state = jax.tree.map(
        _placed, moments, like_optimizer_state(optimizer, moments, shardings_of(trainable), everywhere)
    )
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
        trainable=trainable,
        frozen=jax.tree.map(lambda leaf: _cast(leaf, frozen_dtype), frozen),
        opt_state=opt_state,
        statistics=statistics,
        average=trainable if averaged else {},
    )


def first_state(abstract: TrainState, optimizer: Optimizer, params: Params) -> TrainState:
    """The state before the first step, laid out and cast as `abstract` says.

    Laying it out like the step's output keeps the second call of the step from compiling again.
    """
    statistics, params = split(params, leaf_paths(abstract.statistics).__contains__)
    trainable, frozen = split(params, leaf_paths(abstract.trainable).__contains__)

    def make(trainable: Params, frozen: Params, statistics: Params) -> TrainState:
        trainable = _cast_like(trainable, abstract.trainable)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            trainable=trainable,
            frozen=_cast_like(frozen, abstract.frozen),
            opt_state=optimizer.transform.init(trainable),
            statistics=_cast_like(statistics, abstract.statistics),
            average=jax.tree.map(jnp.copy, trainable) if abstract.average else {},  # a step donates both
        )

    return jax.jit(make, out_shardings=shardings_of(abstract))(trainable, frozen, statistics)


def answering_params(state: TrainState) -> Params:
    """All parameters as the model answers with them: the moving average instead of what is trained, if there is one."""
    return merge(merge(state.average or state.trainable, state.frozen), state.statistics)


def shardings_of(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def _placed(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _cast_like(tree: Params, like: Params) -> Params:
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), tree, like)


def _cast(leaf: jax.ShapeDtypeStruct, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
