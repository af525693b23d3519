"""AdamW with warm-up and decay of the rate to zero, clipping, and learning rates by path of the parameter."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import optax

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths, map_with_path
from biomedgpt_jax.core.types import AxesTree, Params

DEFAULT_GROUP = "default"


class Decay(Enum):
    """How the learning rate falls to 0 after the warm-up."""

    COSINE = "cosine"  # half a period
    LINEAR = "linear"


Schedule = Callable[[Any], jax.Array]  # number of the update, from 0 -> factor of the peak


@dataclass(frozen=True)
class OptimConfig:
    learning_rate: float  # peak, of every parameter that no group names
    group_rates: Mapping[str, float]  # path prefix ("connector", "decoder/embed") -> peak
    total_steps: int
    warmup_ratio: float  # of total_steps, rounded up to whole steps
    rate_decay: Decay
    b1: float
    b2: float
    eps: float
    weight_decay: float  # decoupled
    decay_vectors: bool  # whether biases, norms and other vectors decay too
    clip_norm: float | None  # of the gradient of all trainable parameters together


@dataclass(frozen=True)
class Optimizer:
    """A transformation, and the learning rate that it uses at update `step` (from 0) for each group."""

    transform: optax.GradientTransformation
    learning_rates: Callable[[jax.Array], dict[str, jax.Array]]
    group_of: Mapping[str, str]  # parameter path -> group
    peaks: Mapping[str, float]  # group -> peak learning rate


def make_optimizer(config: OptimConfig, axes: AxesTree) -> Optimizer:
    """Builds the optimizer of the trainable tree whose logical axes are given.

    Raises:
        UsageError: a group matches no parameter, or two groups match the same one.
    """
    group_of = assign_groups(config.group_rates, leaf_paths(axes))
    used = set(group_of.values())
    peaks = {DEFAULT_GROUP: config.learning_rate, **config.group_rates}
    peaks = {group: peak for group, peak in peaks.items() if group in used}
    schedule = warmup(config.rate_decay, config.total_steps, config.warmup_ratio)
    transform = optax.chain(
        *([] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        _decay_and_scale(
            schedule,
            rates=map_with_path(lambda path, _: peaks[group_of[path]], axes),
            decays=map_with_path(
                lambda path, leaf: config.weight_decay * (config.decay_vectors or _is_matrix(path, leaf)), axes
            ),
        ),
    )
    return Optimizer(
        transform=transform,
        learning_rates=lambda step: {group: peak * schedule(step) for group, peak in peaks.items()},
        group_of=group_of,
        peaks=peaks,
    )


def warmup(decay: Decay, total_steps: int, warmup_ratio: float) -> Schedule:
    """Factor of the peak at update `step` (from 0): linear from 0, then down to 0.

    With a cosine the same numbers as get_cosine_schedule_with_warmup of transformers, linearly those of
    get_linear_schedule_with_warmup and of fairseq's polynomial_decay of power 1; the first update has rate 0.
    """
    rising = math.ceil(total_steps * warmup_ratio)
    falling = {Decay.COSINE: lambda progress: 0.5 * (1 + jnp.cos(jnp.pi * progress)), Decay.LINEAR: lambda p: 1 - p}[
        decay
    ]

    def factor(step: Any) -> jax.Array:
        progress = jnp.clip((step - rising) / max(1, total_steps - rising), 0.0, 1.0)
        return jnp.where(step < rising, step / max(1, rising), falling(progress)).astype(jnp.float32)

    return factor


def assign_groups(prefixes: Iterable[str], paths: Iterable[str]) -> dict[str, str]:
    """Maps each path to the one prefix that it starts with, or to the default group.

    Raises:
        UsageError: a prefix matches no path, or two prefixes match the same one.
    """
    prefixes, paths = tuple(prefixes), tuple(paths)
    hits = {path: [p for p in prefixes if f"{path}/".startswith(f"{p.rstrip('/')}/")] for path in paths}
    for path, matching in hits.items():
        if len(matching) > 1:
            raise UsageError(
                f"Learning-rate groups {matching} all match {path}; expected one. Make the prefixes disjoint."
            )
    empty = sorted(set(prefixes) - {matching[0] for matching in hits.values() if matching})
    if empty:
        roots = sorted({path.split("/")[0] for path in paths})
        raise UsageError(
            f"Learning-rate groups {empty} match no trainable parameter; the trainable start with {roots}."
        )
    return {path: matching[0] if matching else DEFAULT_GROUP for path, matching in hits.items()}


def like_optimizer_state(optimizer: Optimizer, opt_state: Any, of_params: Params, of_others: Any) -> Any:
    """A tree like `opt_state` whose moments take the leaves of `of_params` and counters `of_others`.

    With shardings as leaves, this is how the moments come to lie where their parameters lie.
    """
    return optax.tree_map_params(
        optimizer.transform,
        lambda _, leaf: leaf,
        opt_state,
        of_params,
        transform_non_params=lambda _: of_others,
    )


def _is_matrix(path: str, axes: tuple[str | None, ...]) -> bool:
    """Biases may be matrices (heads by head width), stacked vectors look like ones."""
    return path.rsplit("/", 1)[-1] != "bias" and sum(axis != "layers" for axis in axes) > 1


def _decay_and_scale(schedule: Schedule, *, rates: Params, decays: Params) -> optax.GradientTransformation:
    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = schedule(state.count)
        scaled = jax.tree.map(
            lambda update, param, rate, decay: -factor * rate * (update + decay * param),
            updates,
            params,
            rates,
            decays,
        )
        return scaled, optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformation(init, update)
