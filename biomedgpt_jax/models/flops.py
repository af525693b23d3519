"""Model FLOPs of a training step, for the model-flops utilisation (MFU).

Counted are the matrix products (two FLOPs per multiply-add) in the traced forward and backward pass: a
backward product is there exactly when a trained parameter needs it. Not counted are norms, softmax, the
resizing and pooling of image pyramids, the optimizer, and what remat computes twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from biomedgpt_jax.core.lora import Lora
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.partition import merge, split
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models import vision
from biomedgpt_jax.models.connector import make_connector
from biomedgpt_jax.models.llama import Llama
from biomedgpt_jax.models.llama3_med import Llama3MedConfig
from biomedgpt_jax.models.vit import Vit

Predicate = Callable[[str], bool]


@dataclass(frozen=True)
class Flops:
    """Per token of a row, image positions included, and per image (all tiles of its pyramid).

    `per_token` counts the decoder's attention in full, as XLA computes it; `per_token_causal` counts half of
    it, as kernels do that skip what the causal mask hides. Samples packed into one row hide more from each
    other; neither figure allows for that.
    """

    per_token: float
    per_token_causal: float
    per_image: float


def train_flops(
    config: Llama3MedConfig, is_trainable: Predicate, *, row_tokens: int, lora: Lora | None, run_tower: bool
) -> Flops:
    """Forward and backward; where nothing is trainable, the forward pass alone.

    Args:
        is_trainable: the predicate by which the training splits the parameters.
        row_tokens: tokens of a row; what attention costs per token grows with it.
        run_tower: False where the batches hold the tower's features.
    """
    towers = [_tower(config, is_trainable, name, vit) for name, vit in _towers(config)] if run_tower else []
    tower_trained = any(part.trained for part in towers)
    connector = _connector(config, is_trainable, tower_trained)
    decoder = _decoder(config, is_trainable, tower_trained or connector.trained, row_tokens, lora)
    return Flops(
        per_token=(decoder.weights + decoder.attention) / row_tokens,
        per_token_causal=(decoder.weights + decoder.attention / 2) / row_tokens,
        per_image=float(sum(part.weights + part.attention for part in (*towers, connector))),
    )


def matmul_flops(fn: Callable, *args: Any) -> tuple[int, int]:
    """FLOPs of the matrix products in `fn(*args)`: without and with a batch dimension.

    Products of two activations, those of attention, are the ones with a batch dimension. `args` may be
    `ShapeDtypeStruct`s: nothing is computed.
    """
    totals = [0, 0]
    for equation, times in _equations(jax.make_jaxpr(fn)(*args).jaxpr, 1):
        if equation.primitive.name == "dot_general":
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            inner = prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            totals[bool(batch)] += 2 * times * inner * prod(equation.outvars[0].aval.shape)
    return totals[0], totals[1]


@dataclass(frozen=True)
class _Part:
    weights: int
    attention: int
    trained: bool


def _towers(config: Llama3MedConfig) -> list[tuple[str, Any]]:
    names = ("tower",) if config.vision.second is None else ("tower/first", "tower/second")
    return list(zip(names, config.vision.towers, strict=True))


def _tower(config: Llama3MedConfig, is_trainable: Predicate, name: str, vit: Any) -> _Part:
    s2, features = config.vision.s2, config.vision.features
    model = Functional(lambda rngs: Vit(vit, rngs=rngs))
    tiles = jax.ShapeDtypeStruct((s2.tiles, s2.tile, s2.tile, 3), jnp.float32)

    def run(params: Params, tiles: jax.Array) -> jax.Array:
        return model.bind(params)(tiles, features, remat=Remat.NONE)

    return _part(model, run, tiles, lambda path: is_trainable(f"{name}/{path}"), through=False)


def _connector(config: Llama3MedConfig, is_trainable: Predicate, through: bool) -> _Part:
    model = Functional(lambda rngs: make_connector(config.connector, rngs=rngs))
    tokens, widths = vision.tokens_per_image(config.vision), vision.feature_widths(config.vision)
    features = jax.ShapeDtypeStruct((1, tokens, sum(widths)), jnp.float32)

    def run(params: Params, features: jax.Array) -> jax.Array:
        return model.bind(params)(features)

    return _part(model, run, features, lambda path: is_trainable(f"connector/{path}"), through)


def _decoder(
    config: Llama3MedConfig, is_trainable: Predicate, through: bool, row_tokens: int, lora: Lora | None
) -> _Part:
    model = Functional(lambda rngs: Llama(config.decoder, lora=lora, rngs=rngs))
    x = jax.ShapeDtypeStruct((1, row_tokens, config.decoder.width), jnp.float32)

    def run(params: Params, x: jax.Array) -> jax.Array:
        decoder = model.bind(params)
        ones, places = jnp.ones((1, row_tokens), int), jnp.arange(row_tokens)[None]
        return decoder.unembed(decoder(x, ones, places, remat=Remat.NONE))

    part = _part(model, run, x, lambda path: is_trainable(f"decoder/{path}"), through)
    # In full, though what the causal mask hides is not all computed: scores and mixtures of values.
    c = config.decoder
    forward = c.depth * 2 * (2 * row_tokens**2 * c.heads * c.head_dim)
    return replace(part, attention=forward * (3 if part.trained or through else 1))


def _part(model: Functional, run: Callable, x: Any, is_trainable: Predicate, through: bool) -> _Part:
    """Traces `run(params, x)` and the gradients of trainable parameters and, if `through`, of `x`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tuned, frozen = split(shapes, is_trainable)

    def step(tuned: Params, frozen: Params, x: jax.Array) -> Any:
        if not tuned and not through:
            return run(frozen, x)
        wanted = (tuned, x) if through else (tuned,)
        out, backward = jax.vjp(lambda tuned, x=x: run(merge(tuned, frozen), x), *wanted)
        return backward(jnp.ones_like(out))

    weights, _ = matmul_flops(step, tuned, frozen, x)
    # Three times the forward pass: traced backward, the scores that it makes again would count as well.
    _, attention = matmul_flops(run, shapes, x)
    return _Part(weights, attention * (3 if tuned or through else 1), trained=bool(tuned))


def _equations(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    """All equations, those of a scanned body as often as it runs."""
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                nested = getattr(item, "jaxpr", item)
                if hasattr(nested, "eqns"):
                    yield from _equations(nested, inner)
