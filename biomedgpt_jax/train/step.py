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
from biomedgpt_jax.train.losses import Sums
from biomedgpt_jax.train.objectives import Objective
from biomedgpt_jax.train.optim import Optimizer
from biomedgpt_jax.train.state import shardings_of

Metrics = dict[str, jax.Array]  # float32 []
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class StepSettings:
    micro_batches: int  # the batch's rows are worked on in so many equal parts
    objective: Objective
    tokens_per_image: int  # of a row's tokens; 0 for a model without images, or with images beside the tokens
    seed: int  # of what is random while a model learns: a fold of it, the step and the part of the batch
    average_decay: float  # of the state's moving average, where it has one


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

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)

        def of_part(statistics: Params, part: Any, number: Any) -> tuple[Params, Sums, Params]:
            def loss(trainable: Params) -> tuple[jax.Array, tuple[Sums, Params]]:
                params = merge(merge(trainable, state.frozen), statistics)
                hidden, new = _learn(model, params, statistics, part, jax.random.fold_in(key, number))
                sums = settings.objective(model.head(params), hidden, part, state.step)
                return sums.loss, (sums, new)

            gradients, (sums, new) = jax.grad(loss, has_aux=True)(state.trainable)
            return placed(gradients), sums, new

        zeros = placed(jax.tree.map(jnp.zeros_like, state.trainable)), Sums.zero()
        gradients, sums, statistics = _accumulate(of_part, zeros, state.statistics, batch, settings.micro_batches)
        gradients = jax.tree.map(lambda leaf: leaf / jnp.maximum(sums.weight, 1.0), gradients)
        leaf_norms = {f"gradient/{path}": _norm(leaf) for path, leaf in leaf_paths(gradients).items()}
        grad_norm = _norm(list(leaf_norms.values()))
        updates, opt_state = optimizer.transform.update(gradients, state.opt_state, state.trainable)
        trainable: Any = optax.apply_updates(state.trainable, updates)
        average = jax.tree.map(
            lambda old, new: settings.average_decay * old + (1 - settings.average_decay) * new,
            state.average,
            trainable if state.average else {},
        )
        new = TrainState(state.step + 1, trainable, state.frozen, opt_state, statistics, average)
        good = jnp.isfinite(sums.loss) & jnp.isfinite(grad_norm)
        metrics = {
            **_loss_metrics(sums),
            **_batch_metrics(batch, settings.tokens_per_image),
            "grad_norm": grad_norm,
            "param_norm": _norm(trainable),
            "update_norm": _norm(updates),
            **{f"learning_rate/{group}": rate for group, rate in optimizer.learning_rates(state.step).items()},
            **leaf_norms,
        }
        return _if(good, new, state), {name: value.astype(jnp.float32) for name, value in metrics.items()}

    return step


def loss_sums(model: ModelFns, params: Params, batch: Batch, settings: StepSettings) -> Sums:
    """The loss of a batch as the model answers, as sums, of which several can be added up."""
    return settings.objective(model.head(params), model.forward(params, batch), batch, jnp.zeros((), jnp.int32))


def compile_step(step: Step, abstract: TrainState, mesh: Mesh) -> Step:
    """Jits a step with the state's own shardings on both sides and the state donated; batches come placed."""
    return jax.jit(
        step,
        in_shardings=(shardings_of(abstract), None),
        out_shardings=(shardings_of(abstract), NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )


def _learn(model: ModelFns, params: Params, statistics: Params, part: Any, key: jax.Array) -> tuple[jax.Array, Params]:
    """Hidden states, and the running statistics after them."""
    if model.train is None:
        return model.forward(params, part), statistics
    return model.train(params, part, key)


def _if(good: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """What changes, changes only if the step was good; its number always does."""
    changing = [(each.trainable, each.opt_state, each.statistics, each.average) for each in (new, old)]
    kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), *changing)
    return TrainState(new.step, kept[0], new.frozen, *kept[1:])


def _accumulate(
    of_part: Callable[[Params, Any, Any], tuple[Params, Sums, Params]],
    zeros: tuple[Params, Sums],
    statistics: Params,
    batch: Any,
    parts: int,
) -> tuple[Params, Sums, Params]:
    """Adds gradients and sums over `parts` micro-batches, which hand the statistics on; nobody divides before."""
    if parts == 1:
        return of_part(statistics, batch, 0)
    rows = batch["tokens"].shape[0]
    if rows % parts:
        raise UsageError(f"{rows} rows of a batch do not split into {parts} equal micro-batches.")

    def add(carry: tuple[Any, Params], numbered: Any) -> tuple[Any, None]:
        (total, statistics), (part, number) = carry, numbered
        part = {name: shard(array, *BATCH_AXES[name]) for name, array in part.items()}
        *added, statistics = of_part(statistics, part, number)
        return (jax.tree.map(jnp.add, total, tuple(added)), statistics), None

    micro = jax.tree.map(lambda array: _interleaved(array, parts), batch)
    (total, statistics), _ = jax.lax.scan(add, (zeros, statistics), (micro, jnp.arange(parts)))
    return (*total, statistics)


def _interleaved(array: jax.Array, parts: int) -> jax.Array:
    """[b ...] -> [n b/n ...]; part i takes rows i, i + n, ..., so each device keeps its own rows."""
    return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)


def _loss_metrics(sums: Sums) -> Metrics:
    weight = jnp.maximum(sums.weight, 1.0)
    return {"loss": sums.loss / weight, "z_loss": sums.z_loss / weight, "accuracy": sums.correct / weight}


def _batch_metrics(batch: Any, tokens_per_image: int) -> Metrics:
    """Counts what the batch holds; of an encoder-decoder, tokens of sources and targets."""
    used = [batch["segment_ids"] > 0, *([batch["source_mask"]] if "source_mask" in batch else [])]
    counts = [jnp.sum(mask) for mask in used]
    tokens = jnp.sum(jnp.stack(counts))
    sides = dict(zip(("target_tokens", "source_tokens"), counts, strict=True)) if len(counts) == 2 else {}
    images = jnp.zeros(())
    if "image_index" in batch:
        images = jnp.sum(batch["image_index"] >= 0) / max(1, tokens_per_image)
    elif "image_mask" in batch:
        images = jnp.sum(batch["image_mask"])
    return {
        "supervised_tokens": jnp.sum(batch["loss_weights"] != 0),
        "tokens": tokens,
        **sides,
        "padding_share": 1 - tokens / sum(mask.size for mask in used),
        "images": images,
    }


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))
