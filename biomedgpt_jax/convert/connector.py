"""Rule tables of the connectors, by the names of the official Llama3-Med (below `_connector.`) and LLaVA."""

from biomedgpt_jax.convert.mapping import Rule, prefixed
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.connector import (
    ConnectorConfig,
    IdentityConfig,
    MlpConfig,
    MofConfig,
    QFormerConfig,
    ResamplerConfig,
)


def official_rules(config: ConnectorConfig) -> tuple[Rule, ...]:
    """Names as torch gives them below `_connector.`."""
    match config:
        case IdentityConfig():
            return ()
        case MlpConfig(layers=1):
            return _linear("", "linears/0/")
        case MlpConfig():
            return _mlp(config.layers)
        case MofConfig():
            return (
                *prefixed(_mlp(config.layers), theirs="clip.", ours="first/"),
                *prefixed(_mlp(config.layers), theirs="dinov2.", ours="second/"),
            )
        case ResamplerConfig():
            return _RESAMPLER
        case QFormerConfig():
            return _qformer(config)


def llava_rules(config: ConnectorConfig) -> tuple[Rule, ...]:
    """Names of transformers' LLaVA, below `multi_modal_projector.`.

    Raises:
        RunError: LLaVA has only MLPs of two layers.
    """
    if not (isinstance(config, MlpConfig) and config.layers == 2):
        raise RunError(
            f"LLaVA in Hugging Face has no connector {config}; only mlp2x_gelu and mlp2x_relu. "
            "Export with our modeling file instead."
        )
    return _linear("linear_1.", "linears/0/") + _linear("linear_2.", "linears/1/")


def _linear(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}weight", f"{ours}kernel", "o i -> i o"),
        Rule(f"{theirs}bias", f"{ours}bias", "o -> o"),
    )


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}weight", f"{ours}scale", "d -> d"),
        Rule(f"{theirs}bias", f"{ours}bias", "d -> d"),
    )


def _mlp(layers: int) -> tuple[Rule, ...]:
    """Activations take every second place of the Sequential."""
    return tuple(rule for i in range(layers) for rule in _linear(f"{2 * i}.", f"linears/{i}/"))


_RESAMPLER = (
    *_linear("linear.", "linear/"),
    Rule("latents", "latents", "m d -> m d"),
    *_norm("norm.", "norm/"),
    *_norm("layers.{layer}.0.norm_media.", "layers/media_norm/"),
    *_norm("layers.{layer}.0.norm_latents.", "layers/latent_norm/"),
    Rule("layers.{layer}.0.to_q.weight", "layers/attention/q/kernel", "(h k) d -> d h k"),
    Rule(
        "layers.{layer}.0.to_kv.weight",
        ("layers/attention/k/kernel", "layers/attention/v/kernel"),
        "(n h k) d -> n d h k",
    ),
    Rule("layers.{layer}.0.to_out.weight", "layers/attention/out/kernel", "d (h k) -> h k d"),
    *_norm("layers.{layer}.1.0.", "layers/mlp_norm/"),
    Rule("layers.{layer}.1.1.weight", "layers/mlp/up/kernel", "f d -> d f"),
    Rule("layers.{layer}.1.3.weight", "layers/mlp/down/kernel", "d f -> f d"),
)


def _qformer(config: QFormerConfig) -> tuple[Rule, ...]:
    layers = [
        prefixed(
            _qformer_layer(crosses=index % config.cross_every == 0),
            theirs=f"bert.encoder.layer.{index}.",
            ours=f"blocks/{index}/",
        )
        for index in range(config.depth)
    ]
    return (
        Rule("query_tokens", "query_tokens", "1 m d -> m d"),
        *_linear("projector.", "projector/"),
        *(rule for layer in layers for rule in layer),
    )


def _qformer_layer(*, crosses: bool) -> tuple[Rule, ...]:
    cross = _bert_attention("crossattention.", "cross_attention/", "cross_norm/") if crosses else ()
    return (
        *_bert_attention("attention.", "attention/", "attention_norm/"),
        *cross,
        *_linear("intermediate_query.dense.", "mlp/up/"),
        *_linear("output_query.dense.", "mlp/down/"),
        *_norm("output_query.LayerNorm.", "mlp_norm/"),
    )


def _bert_attention(theirs: str, ours: str, norm: str) -> tuple[Rule, ...]:
    projections = (("query", "q"), ("key", "k"), ("value", "v"))
    inward = [
        rule
        for name, short in projections
        for rule in (
            Rule(f"{theirs}self.{name}.weight", f"{ours}{short}/kernel", "(h k) d -> d h k"),
            Rule(f"{theirs}self.{name}.bias", f"{ours}{short}/bias", "(h k) -> h k"),
        )
    ]
    return (
        *inward,
        Rule(f"{theirs}output.dense.weight", f"{ours}out/kernel", "d (h k) -> h k d"),
        Rule(f"{theirs}output.dense.bias", f"{ours}out/bias", "d -> d"),
        *_norm(f"{theirs}output.LayerNorm.", norm),
    )
