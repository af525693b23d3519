"""Loss and accuracy on held-out rows: sums over all batches, divided once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from biomedgpt_jax.core.partition import merge
from biomedgpt_jax.core.placing import place_batch
from biomedgpt_jax.core.types import Batch, ModelFns, TrainState
from biomedgpt_jax.train.losses import Sums
from biomedgpt_jax.train.state import shardings_of
from biomedgpt_jax.train.step import StepSettings, loss_sums


def make_heldout(
    model: ModelFns, settings: StepSettings, *, abstract: TrainState, mesh: Mesh
) -> Callable[[TrainState, Iterable[dict[str, Any]]], dict[str, float]]:
    """Builds `score(state, batches) -> {"heldout/loss", "heldout/accuracy", "heldout/supervised_tokens"}`.

    Batches are host batches of one shape, as the training's are; compiled on the first call.
    """

    def sums(state: TrainState, batch: Batch) -> Sums:
        return loss_sums(model, merge(state.trainable, state.frozen), batch, settings)

    compiled = jax.jit(
        sums,
        in_shardings=(shardings_of(abstract), None),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )

    def score(state: TrainState, batches: Iterable[dict[str, Any]]) -> dict[str, float]:
        total = Sums.zero()
        with jax.set_mesh(mesh):
            for batch in batches:
                total = total + compiled(state, place_batch(batch, mesh))
        weight = float(total.weight)
        return {
            "heldout/loss": float(total.loss) / max(weight, 1.0),
            "heldout/accuracy": float(total.correct) / max(weight, 1.0),
            "heldout/supervised_tokens": weight,
        }

    return score
