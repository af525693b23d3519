from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from biomedgpt_jax.convert.connector import llava_rules, official_rules
from biomedgpt_jax.convert.mapping import export_tensors, import_tensors
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.module import Functional
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.connector import (
    MlpConfig,
    MofConfig,
    QFormerConfig,
    ResamplerConfig,
    connector_from_name,
    connector_tokens,
    make_connector,
)
from tests.models.references import close, randomised

RESAMPLER = ResamplerConfig(queries=5, layers=2, heads=3, head_dim=4, mlp_ratio=4, eps=1e-5, in_width=12, out_width=16)
QFORMER = QFormerConfig(
    queries=5,
    width=24,
    depth=3,
    heads=3,
    hidden=40,
    act=Activation.GELU,
    cross_every=2,
    eps=1e-3,
    in_width=12,
    out_width=16,
)


class Resampler(nn.Module):
    """From its description, one head at a time, with the names of the official checkpoints."""

    def __init__(self):
        super().__init__()
        c, width = RESAMPLER, RESAMPLER.out_width
        inner = c.heads * c.head_dim
        self.latents = nn.Parameter(torch.zeros(c.queries, width))
        self.linear = nn.Linear(c.in_width, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.ModuleDict(
                        {
                            "norm_media": nn.LayerNorm(width),
                            "norm_latents": nn.LayerNorm(width),
                            "to_q": nn.Linear(width, inner, bias=False),
                            "to_kv": nn.Linear(width, 2 * inner, bias=False),
                            "to_out": nn.Linear(inner, width, bias=False),
                        }
                    ),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 4 * width, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * width, width, bias=False),
                    ),
                ]
            )
            for _ in range(c.layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        media, latents = self.linear(x), self.latents.expand(len(x), -1, -1)
        for attention, feed_forward in self.layers:
            queries = attention["norm_latents"](latents)
            keys = torch.cat([attention["norm_media"](media), queries], 1)
            q, (k, v) = attention["to_q"](queries), attention["to_kv"](keys).chunk(2, -1)
            k_width = RESAMPLER.head_dim
            heads = [
                torch.softmax(q_h @ k_h.transpose(1, 2) / k_width**0.5, -1) @ v_h
                for q_h, k_h, v_h in zip(*(each.split(k_width, -1) for each in (q, k, v)), strict=True)
            ]
            latents = latents + attention["to_out"](torch.cat(heads, -1))
            latents = latents + feed_forward(latents)
        return self.norm(latents)


class QFormer(nn.Module):
    """BLIP-2's Q-Former without text; its first norm is made neutral, as the official connector has none."""

    def __init__(self):
        super().__init__()
        self.bert = transformers.Blip2QFormerModel(
            transformers.Blip2QFormerConfig(
                hidden_size=QFORMER.width,
                num_hidden_layers=QFORMER.depth,
                num_attention_heads=QFORMER.heads,
                intermediate_size=QFORMER.hidden,
                encoder_hidden_size=QFORMER.in_width,
                layer_norm_eps=QFORMER.eps,
                cross_attention_frequency=QFORMER.cross_every,
                use_qformer_text_input=False,
            )
        )
        self.query_tokens = nn.Parameter(torch.zeros(1, QFORMER.queries, QFORMER.width))
        self.projector = nn.Linear(QFORMER.width, QFORMER.out_width)

    def forward(self, x):
        nn.init.ones_(self.bert.layernorm.weight)
        nn.init.zeros_(self.bert.layernorm.bias)
        queries = self.query_tokens.expand(len(x), -1, -1)
        return self.projector(self.bert(query_embeds=queries, encoder_hidden_states=x).last_hidden_state)

    def official_names(self):
        kept = {key: value for key, value in self.state_dict().items() if "bert.layernorm" not in key}
        return {key.replace("attention.attention.", "attention.self."): value for key, value in kept.items()}


class Mof(nn.Module):
    def __init__(self):
        super().__init__()
        self.clip, self.dinov2 = (nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, 16)) for width in (5, 7))

    def forward(self, x):
        pair = self.clip(x[..., :5]), self.dinov2(x[..., 5:])
        return torch.stack(pair, 2).flatten(1, 2)


def sequential(layers, act):
    modules = [nn.Linear(12, 16)]
    for _ in range(layers - 1):
        modules += [act(), nn.Linear(16, 16)]
    return nn.Sequential(*modules)


CASES = {
    "mlp2x_gelu": (lambda: sequential(2, nn.GELU), connector_from_name("mlp2x_gelu", (12,), 16)),
    "mlp3x_relu": (lambda: sequential(3, nn.ReLU), connector_from_name("mlp3x_relu", (12,), 16)),
    "linear": (lambda: nn.Linear(12, 16), connector_from_name("linear", (12,), 16)),
    "resampler": (Resampler, RESAMPLER),
    "qformer": (QFormer, QFORMER),
    "mof_mlp": (Mof, MofConfig(2, Activation.GELU, (5, 7), 16)),
}


@cache
def case(name):
    build, config = CASES[name]
    model = randomised(build())
    named = model.official_names() if isinstance(model, QFormer) else model.state_dict()
    return model, config, {key: value.numpy() for key, value in named.items()}


def functional(config):
    return Functional(lambda rngs: make_connector(config, rngs=rngs))


def shapes(config):
    return {
        path: leaf.shape
        for path, leaf in leaf_paths(jax.eval_shape(functional(config).init, jax.random.key(0))).items()
    }


def parameters(name):
    _, config, tensors = case(name)
    leaves = import_tensors(tensors, official_rules(config), shapes(config), where=name)
    return config, jax.tree.map(jnp.asarray, from_leaf_paths(dict(leaves)))


@pytest.mark.parametrize("name", CASES)
def test_the_reference_gives_the_same_and_weights_return_bit_equal(name):
    model, config, tensors = case(name)
    params = parameters(name)[1]
    features = np.random.default_rng(0).normal(size=(2, 9, 12)).astype(np.float32)
    ours = jax.jit(lambda params, x: functional(config).bind(params)(x))(params, features)
    with torch.no_grad():
        close(ours, model(torch.from_numpy(features)))
    assert ours.shape[1] == connector_tokens(config, 9)
    leaves = {path: np.asarray(leaf) for path, leaf in leaf_paths(params).items()}
    back = dict(export_tensors(leaves, official_rules(config), where=name))
    assert back.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(back[key], array)


def test_identity():
    config = connector_from_name("identity", (12,), 12)
    x = jnp.arange(24.0).reshape(1, 2, 12)
    assert functional(config).init(jax.random.key(0)) == {}
    np.testing.assert_array_equal(functional(config).bind({})(x), x)
    with pytest.raises(UsageError, match="12 channels, the decoder takes 16"):
        connector_from_name("identity", (12,), 16)


@pytest.mark.parametrize("name", ["mlp2x_gelu", "resampler", "qformer"])
def test_every_leaf_gets_a_gradient(name):
    config, params = parameters(name)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 12)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        y = functional(config).bind(params)(x)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape)))

    largest = {path: np.abs(grad).max() for path, grad in leaf_paths(gradient(params)).items()}
    still = {path for path in largest if largest[path] < 1e-6 * max(largest.values())}
    assert all(path.endswith("attention/k/bias") for path in still)


PARAMETERS = [
    ("mlp2x_gelu", 4608, 35_659_776),
    ("mlp2x_gelu", 3072, 29_368_320),
    ("mlp2x_relu", 3456, 30_941_184),
    ("mlp2x_gelu", 1024, 20_979_712),
    ("linear", 1024, 4_198_400),
]


@pytest.mark.parametrize(("name", "width", "count"), PARAMETERS)
def test_parameters_at_full_size(name, width, count):
    config = connector_from_name(name, (width,), 4096)
    assert sum(int(np.prod(shape)) for shape in shapes(config).values()) == count


def test_sizes_of_the_published_resampler_and_qformer():
    resampler, qformer = (shapes(connector_from_name(name, (1024,), 4096)) for name in ("resampler", "qformer"))
    assert resampler["latents"] == (128, 4096)
    assert resampler["layers/attention/k/kernel"] == (3, 4096, 8, 64)
    assert resampler["layers/mlp/up/kernel"] == (3, 4096, 16384)
    assert qformer["query_tokens"] == (128, 768)
    assert qformer["blocks/10/cross_attention/k/kernel"] == (1024, 12, 64)
    assert "blocks/11/cross_attention/k/kernel" not in qformer
    assert qformer["blocks/11/mlp/up/kernel"] == (768, 3072)


def test_weights_and_biases_start_as_in_torch():
    config = MlpConfig(2, Activation.GELU, 400, 900)
    params = leaf_paths(jax.jit(functional(config).init)(jax.random.key(0)))
    for path, fan_in in (("linears/0", 400), ("linears/1", 900)):
        for leaf in ("kernel", "bias"):
            values = np.asarray(params[f"{path}/{leaf}"])
            assert np.abs(values).max() <= fan_in**-0.5
            np.testing.assert_allclose(values.std(), fan_in**-0.5 / 3**0.5, rtol=0.1)


def test_llava_names():
    keys = {rule.theirs for rule in llava_rules(connector_from_name("mlp2x_gelu", (12,), 16))}
    assert keys == {f"linear_{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")}
    with pytest.raises(RunError, match="only mlp2x_gelu"):
        llava_rules(RESAMPLER)


@pytest.mark.parametrize(
    ("name", "widths", "message"),
    [
        ("mlp2x_silu", (12,), "mlp2x_silu.*unknown.*resampler"),
        ("mlp1x_gelu", (12,), "one layer is linear"),
        ("mlp2x_gelu", (12, 12), "1 tower.*has 2"),
        ("mof_mlp", (12,), "2 tower.*has 1"),
    ],
)
def test_names_that_do_not_fit(name, widths, message):
    with pytest.raises(UsageError, match=message):
        connector_from_name(name, widths, 16)
