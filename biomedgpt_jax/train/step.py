"""The update as one pure function of the state and a batch.

Axis letters: b rows, n micro-batches, s tokens of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths, map_with_path, merge
from biomedgpt_jax.core.placing import BATCH_AXES
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.core.types import Batch, ModelFns, Params, TrainState
from biomedgpt_jax.train.losses import Sums, cross_entropy
from biomedgpt_jax.train.optim import Optimizer
from biomedgpt_jax.train.state import shardings_of

Metrics = dict[str, jax.Array]  # float32 []
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class StepSettings:
    micro_batches: int  # the batch's rows are worked on in so many equal parts
    loss_chunk: int  # positions of each row whose logits exist at a time
    label_smoothing: float
    z_loss: float
    tokens_per_image: int  # 0 for a model without images


def make_train_step(model: ModelFns, optimizer: Optimizer, settings: StepSettings) -> Step:
    """Builds `step(state, batch) -> (state, metrics)`; differentiates the trainable tree alone.

    A step whose loss or gradient is not finite changes nothing but the step counter; the loop, which
    reads metrics rarely, finds it later and stops. Metrics named `gradient/<path>` are the norms of the
    single leaves.
    """
    axes = leaf_paths(model.axes())

    def placed(gradients: Params) -> Params:
        """Each where its parameter lies, also while they are added up."""
        return map_with_path(lambda path, leaf: shard(leaf, *axes[path]), gradients)

    def loss(trainable: Params, frozen: Params, batch: Batch) -> tuple[jax.Array, Sums]:
        sums = loss_sums(model, merge(trainable, frozen), batch, settings)
        return sums.loss, sums

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grad = jax.grad(loss, has_aux=True)

        def of_part(part: Batch) -> tuple[Params, Sums]:
            gradients, sums = grad(state.trainable, state.frozen, part)
            return placed(gradients), sums

        zeros = placed(jax.tree.map(jnp.zeros_like, state.trainable)), Sums.zero()
        gradients, sums = _accumulate(of_part, zeros, batch, settings.micro_batches)
        gradients = jax.tree.map(lambda leaf: leaf / jnp.maximum(sums.weight, 1.0), gradients)
        leaf_norms = {f"gradient/{path}": _norm(leaf) for path, leaf in leaf_paths(gradients).items()}
        grad_norm = _norm(list(leaf_norms.values()))
        updates, opt_state = optimizer.transform.update(gradients, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        good = jnp.isfinite(sums.loss) & jnp.isfinite(grad_norm)
        trainable, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (trainable, opt_state),
            (state.trainable, state.opt_state),
        )
        metrics = {
            **_loss_metrics(sums),
            **_batch_metrics(batch, settings.tokens_per_image),
            "grad_norm": grad_norm,
            "param_norm": _norm(trainable),
            "update_norm": _norm(updates),
            **{f"learning_rate/{group}": rate for group, rate in optimizer.learning_rates(state.step).items()},
            **leaf_norms,
        }
        metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
        return TrainState(state.step + 1, trainable, state.frozen, opt_state), metrics

    return step


def loss_sums(model: ModelFns, params: Params, batch: Batch, settings: StepSettings) -> Sums:
    """The loss of a batch as sums, of which several can be added up."""
    return cross_entropy(
        model.head(params),
        model.forward(params, batch),
        batch["targets"],
        batch["loss_weights"],
        chunk_size=settings.loss_chunk,
        label_smoothing=settings.label_smoothing,
        z_loss=settings.z_loss,
    )


def compile_step(step: Step, abstract: TrainState, mesh: Mesh) -> Step:
    """Jits a step with the state's own shardings on both sides and the state donated; batches come placed."""
    return jax.jit(
        step,
        in_shardings=(shardings_of(abstract), None),
        out_shardings=(shardings_of(abstract), NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )


def _accumulate(
    grad: Callable[[Batch], tuple[Params, Sums]], zeros: tuple[Params, Sums], batch: Batch, parts: int
) -> tuple[Params, Sums]:
    """Adds gradients and sums over `parts` micro-batches; nobody divides before the end."""
    if parts == 1:
        return grad(batch)
    rows = batch["tokens"].shape[0]
    if rows % parts:
        raise UsageError(f"{rows} rows of a batch do not split into {parts} equal micro-batches.")

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        part = jax.tree.map(lambda array, axes: shard(array, *axes), part, {name: BATCH_AXES[name] for name in part})
        return jax.tree.map(jnp.add, total, grad(part)), None

    micro = jax.tree.map(lambda array: _interleaved(array, parts), batch)
    return jax.lax.scan(add, zeros, micro)[0]


def _interleaved(array: jax.Array, parts: int) -> jax.Array:
    """[b ...] -> [n b/n ...]; part i takes rows i, i + n, ..., so each device keeps its own rows."""
    return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)


def _loss_metrics(sums: Sums) -> Metrics:
    weight = jnp.maximum(sums.weight, 1.0)
    return {
        "loss": sums.loss / weight,
        "z_loss": sums.z_loss / weight,
        "accuracy": sums.correct / weight,
        "supervised_tokens": sums.weight,
    }


def _batch_metrics(batch: Batch, tokens_per_image: int) -> Metrics:
    return {
        "tokens": jnp.sum(batch["segment_ids"] > 0),
        "padding_share": jnp.mean(batch["segment_ids"] == 0),
        "images": jnp.sum(batch["image_index"] >= 0) / max(1, tokens_per_image),
    }


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))
