"""From tower features to vectors of the decoder's width: MLPs, Perceiver resampler, Q-Former, MoF.

Each connector is a frozen config and a module of the same name. Axis letters: b images, n features of
an image, m tokens given to the decoder, c channels of the tower, d width of the decoder.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import param, scan, stack
from biomedgpt_jax.layers.attention import attention
from biomedgpt_jax.layers.linear import Linear, torch_uniform
from biomedgpt_jax.layers.mlp import Activation, Mlp, activation
from biomedgpt_jax.layers.norm import LayerNorm
from biomedgpt_jax.models.qformer import QFormer, QFormerConfig

# Uniform in +-1/sqrt(fan_in), for kernels with two dimensions.
TORCH_KERNEL = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclass(frozen=True)
class IdentityConfig:
    """The tower's features as they are."""

    in_width: int
    out_width: int

    def __post_init__(self):
        if self.in_width != self.out_width:
            raise UsageError(
                f"Connector identity: the tower gives {self.in_width} channels, the decoder takes "
                f"{self.out_width}. Use a connector with parameters, such as mlp2x_gelu."
            )


@dataclass(frozen=True)
class MlpConfig:
    """Linear(c -> d), then `layers` - 1 times an activation and Linear(d -> d); one layer is `linear`."""

    layers: int
    act: Activation
    in_width: int
    out_width: int


@dataclass(frozen=True)
class ResamplerConfig:
    """Perceiver resampler: learned latents read the features in a few layers."""

    queries: int
    layers: int
    heads: int
    head_dim: int
    mlp_ratio: int
    eps: float
    in_width: int
    out_width: int


@dataclass(frozen=True)
class MofConfig:
    """Mixture of features: an MLP for each of two towers, their tokens in turn."""

    layers: int
    act: Activation
    in_widths: tuple[int, int]
    out_width: int


ConnectorConfig = IdentityConfig | MlpConfig | ResamplerConfig | QFormerConfig | MofConfig


def connector_from_name(name: str, in_widths: tuple[int, ...], out_width: int) -> ConnectorConfig:
    """The published connector of that name: linear, identity, mlp2x_gelu, resampler, qformer, mof_mlp.

    Args:
        in_widths: channels of each tower, as `models.vision.feature_widths`.
        out_width: width of the decoder.

    Raises:
        UsageError: an unknown name, or one that does not fit the number of towers or the widths.
    """
    mlp = re.fullmatch(r"mlp([2-9]|[1-9]\d+)x_(gelu|relu)", name)
    if not mlp and name not in _PUBLISHED:
        raise UsageError(
            f'Connector "{name}" is unknown; there are mlpNx_gelu and mlpNx_relu with N from 2 (one layer is linear), '
            f"{', '.join(sorted(_PUBLISHED))}."
        )
    towers = 2 if name == "mof_mlp" else 1
    if len(in_widths) != towers:
        raise UsageError(
            f'Connector "{name}" takes the features of {towers} tower(s), the model has {len(in_widths)}. '
            "mof_mlp belongs to a mixture of two towers, every other connector to one tower."
        )
    if mlp:
        return MlpConfig(int(mlp[1]), Activation(mlp[2]), in_widths[0], out_width)
    return _PUBLISHED[name](in_widths, out_width)


def make_connector(config: ConnectorConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    """A module mapping [b n c] to [b m d], in the dtype of its input."""
    return _MODULES[type(config)](config, rngs=rngs)


def connector_tokens(config: ConnectorConfig, tokens: int) -> int:
    """Vectors per image that the decoder gets from `tokens` features."""
    match config:
        case ResamplerConfig() | QFormerConfig():
            return config.queries
        case MofConfig():
            return 2 * tokens
        case _:
            return tokens


class Identity(nnx.Module):
    def __init__(self, config: IdentityConfig, *, rngs: nnx.Rngs):
        del config, rngs

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        return x


class MlpConnector(nnx.Module):
    """Weights and biases start uniform in +-1/sqrt(fan_in), as torch does."""

    def __init__(self, config: MlpConfig, *, rngs: nnx.Rngs):
        widths = [config.in_width] + [config.out_width] * config.layers
        self.linears = nnx.List(_linear(wide, out, rngs) for wide, out in pairwise(widths))
        self.act = config.act

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n d"]:
        first, *others = self.linears
        x = first(x)
        for linear in others:
            x = linear(activation(self.act)(x))
        return x


class Resampler(nnx.Module):
    """The latents start as a standard normal, the rest as torch does."""

    def __init__(self, config: ResamplerConfig, *, rngs: nnx.Rngs):
        width = config.out_width
        self.linear = _linear(config.in_width, width, rngs)
        self.latents = param(rngs, (config.queries, width), (None, "embed"), jax.nn.initializers.normal(1.0))
        self.layers = stack(lambda keys: ResamplerLayer(config, rngs=keys), config.layers, rngs)
        self.norm = LayerNorm(width, eps=config.eps, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b m d"]:
        media = self.linear(x)
        latents = self.latents[...].astype(x.dtype)
        latents = jnp.broadcast_to(latents, (x.shape[0], *latents.shape))
        latents, _ = scan(self.layers, lambda layer, carry, _: (layer(media, carry), None), latents)
        return self.norm(latents)


class ResamplerLayer(nnx.Module):
    """Latents attend to the features and to themselves, then a feed-forward; no biases."""

    def __init__(self, config: ResamplerConfig, *, rngs: nnx.Rngs):
        width = config.out_width
        self.media_norm = LayerNorm(width, eps=config.eps, rngs=rngs)
        self.latent_norm = LayerNorm(width, eps=config.eps, rngs=rngs)
        self.attention = ResamplerAttention(config, rngs=rngs)
        self.mlp_norm = LayerNorm(width, eps=config.eps, rngs=rngs)
        self.mlp = Mlp(
            width,
            width * config.mlp_ratio,
            act=Activation.GELU,
            bias=False,
            init=TORCH_KERNEL,
            rngs=rngs,
        )

    def __call__(self, media: Float[Array, "b n d"], latents: Float[Array, "b m d"]) -> Float[Array, "b m d"]:
        queries = self.latent_norm(latents)
        keys = jnp.concatenate([self.media_norm(media), queries], axis=1)
        latents = latents + self.attention(queries, keys)
        return latents + self.mlp(self.mlp_norm(latents))


class ResamplerAttention(nnx.Module):
    def __init__(self, config: ResamplerConfig, *, rngs: nnx.Rngs):
        width, heads = (config.out_width,), (config.heads, config.head_dim)
        inward = {
            "in_axes": ("embed",),
            "out_axes": ("heads", "head_dim"),
            "bias": False,
            "init": torch_uniform(config.out_width),
            "rngs": rngs,
        }
        self.q = Linear(width, heads, **inward)
        self.k = Linear(width, heads, **inward)
        self.v = Linear(width, heads, **inward)
        self.out = Linear(
            heads,
            width,
            in_axes=("heads", "head_dim"),
            out_axes=("embed",),
            bias=False,
            init=torch_uniform(config.heads * config.head_dim),
            rngs=rngs,
        )
        self.scale = config.head_dim**-0.5

    def __call__(self, queries: Float[Array, "b m d"], keys: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
        return self.out(attention(self.q(queries), self.k(keys), self.v(keys), scale=self.scale))


class MofConnector(nnx.Module):
    """Splits the channels by tower; even tokens of the result are the first tower's, odd the second's."""

    def __init__(self, config: MofConfig, *, rngs: nnx.Rngs):
        self.first, self.second = (
            MlpConnector(MlpConfig(config.layers, config.act, width, config.out_width), rngs=rngs)
            for width in config.in_widths
        )
        self.boundary = config.in_widths[0]

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b m d"]:
        first, second = jnp.split(x, [self.boundary], axis=-1)
        pairs = jnp.stack([self.first(first), self.second(second)], axis=2)
        return rearrange(pairs, "b n two d -> b (n two) d")


def _linear(in_width: int, out_width: int, rngs: nnx.Rngs) -> Linear:
    init = torch_uniform(in_width)
    return Linear(
        (in_width,),
        (out_width,),
        in_axes=("features",),
        out_axes=("embed",),
        bias=True,
        init=init,
        bias_init=init,
        rngs=rngs,
    )


def _linear_config(in_widths: tuple[int, ...], out_width: int) -> MlpConfig:
    return MlpConfig(1, Activation.GELU, in_widths[0], out_width)


def _identity_config(in_widths: tuple[int, ...], out_width: int) -> IdentityConfig:
    return IdentityConfig(in_widths[0], out_width)


def _resampler_config(in_widths: tuple[int, ...], out_width: int) -> ResamplerConfig:
    return ResamplerConfig(
        queries=128,
        layers=3,
        heads=8,
        head_dim=64,
        mlp_ratio=4,
        eps=1e-5,
        in_width=in_widths[0],
        out_width=out_width,
    )


def _qformer_config(in_widths: tuple[int, ...], out_width: int) -> QFormerConfig:
    """A Q-Former with the sizes of bert-base-uncased."""
    return QFormerConfig(
        queries=128,
        width=768,
        depth=12,
        heads=12,
        hidden=3072,
        act=Activation.GELU,
        cross_every=2,
        eps=1e-12,
        in_width=in_widths[0],
        out_width=out_width,
    )


def _mof_config(in_widths: tuple[int, ...], out_width: int) -> MofConfig:
    return MofConfig(2, Activation.GELU, (in_widths[0], in_widths[1]), out_width)


_PUBLISHED = {
    "identity": _identity_config,
    "linear": _linear_config,
    "mof_mlp": _mof_config,
    "qformer": _qformer_config,
    "resampler": _resampler_config,
}

_MODULES = {
    IdentityConfig: Identity,
    MlpConfig: MlpConnector,
    MofConfig: MofConnector,
    QFormerConfig: QFormer,
    ResamplerConfig: Resampler,
}
