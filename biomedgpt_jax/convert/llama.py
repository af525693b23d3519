"""LlamaForCausalLM of transformers: rules and configuration. Also TinyLlama and SmolLM2, which are Llamas."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert.attributes import FIXED, LEGACY, read_attributes
from biomedgpt_jax.convert.kinds import COUNT, COUNT_OR_NULL, FLAG, NUMBER, OBJECT, SIZE, WORD, activation, check_kinds
from biomedgpt_jax.convert.mapping import Rule
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.layers.position import RopeScaling
from biomedgpt_jax.models.llama import LlamaConfig

_LAYER = "model.layers.{layer}"

RULES = (
    Rule("model.embed_tokens.weight", "embed/embedding", "v d -> v d"),
    Rule(f"{_LAYER}.input_layernorm.weight", "layers/attention_norm/scale", "d -> d"),
    Rule(f"{_LAYER}.self_attn.q_proj.weight", "layers/attention/q/kernel", "(h k) d -> d h k"),
    Rule(f"{_LAYER}.self_attn.k_proj.weight", "layers/attention/k/kernel", "(g k) d -> d g k"),
    Rule(f"{_LAYER}.self_attn.v_proj.weight", "layers/attention/v/kernel", "(g k) d -> d g k"),
    Rule(f"{_LAYER}.self_attn.o_proj.weight", "layers/attention/out/kernel", "d (h k) -> h k d"),
    Rule(f"{_LAYER}.post_attention_layernorm.weight", "layers/mlp_norm/scale", "d -> d"),
    Rule(f"{_LAYER}.mlp.gate_proj.weight", "layers/mlp/gate/kernel", "f d -> d f"),
    Rule(f"{_LAYER}.mlp.up_proj.weight", "layers/mlp/up/kernel", "f d -> d f"),
    Rule(f"{_LAYER}.mlp.down_proj.weight", "layers/mlp/down/kernel", "d f -> f d"),
    Rule("model.norm.weight", "norm/scale", "d -> d"),
    Rule("lm_head.weight", "lm_head/kernel", "v d -> d v"),
)

# Written by some versions: frequencies that follow from the configuration, and a tied head.
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"model\.rotary_emb\.inv_freq", r"lm_head\.weight")

# What transformers assumes for an absent attribute (5.23, LlamaConfig).
_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "vocab_size": 32000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": None,
}

_KINDS = {
    "hidden_size": COUNT,
    "intermediate_size": COUNT,
    "num_hidden_layers": SIZE,
    "num_attention_heads": COUNT,
    "num_key_value_heads": COUNT_OR_NULL,
    "head_dim": COUNT_OR_NULL,
    "hidden_act": WORD,
    "vocab_size": COUNT,
    "rms_norm_eps": NUMBER,
    "tie_word_embeddings": FLAG,
    "initializer_range": NUMBER,
}


def config_from_hf(config: Mapping[str, Any], where: str) -> LlamaConfig:
    """Reads the content of a config.json with model_type "llama".

    Raises:
        RunError: an attribute that we neither handle nor know to be harmless.
    """
    found = read_decoder_attributes(
        config,
        where=where,
        defaults=_DEFAULTS,
        fixed={
            "model_type": ("llama",),
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "attention_dropout": (0, 0.0),
            "is_llama_config": (True,),
            "rope_interleaved": (False,),
        },
        ignored=frozenset({"max_position_embeddings", "pretraining_tp", "transformers.js_config"}),
    )
    return llama_config(found, where, eps=found["rms_norm_eps"], qkv_bias=False, norm_offset=0.0, embed_scale=1.0)


def read_decoder_attributes(
    config: Mapping[str, Any],
    *,
    where: str,
    defaults: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
    ignored: frozenset[str],
) -> dict[str, Any]:
    """`read_attributes` with what the families have in common, and each value of its kind.

    Raises:
        RunError: an attribute that is neither handled nor knowingly ignored, or a value we cannot do.
    """
    found = read_attributes(config, where=where, defaults=defaults, fixed={**FIXED, **fixed}, ignored=LEGACY | ignored)
    check_kinds(found, _KINDS, where)
    return found


def llama_config(
    found: Mapping[str, Any], where: str, *, eps: float, qkv_bias: bool, norm_offset: float, embed_scale: float
) -> LlamaConfig:
    """The configuration of any of the families, from what `read_decoder_attributes` returns."""
    theta, scaling = _rope(found, where)
    heads = found["num_attention_heads"]
    return LlamaConfig(
        width=found["hidden_size"],
        depth=found["num_hidden_layers"],
        heads=heads,
        kv_heads=found["num_key_value_heads"] or heads,
        head_dim=found["head_dim"] or found["hidden_size"] // heads,
        mlp_width=found["intermediate_size"],
        activation=activation(found["hidden_act"], f"{where}: hidden_act"),
        vocab_size=found["vocab_size"],
        rope_theta=theta,
        rope_scaling=scaling,
        eps=eps,
        norm_offset=norm_offset,
        qkv_bias=qkv_bias,
        embed_scale=embed_scale,
        tied=found["tie_word_embeddings"],
        init_std=found["initializer_range"],
    )


def _rope(found: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Both spellings: `rope_theta` and `rope_scaling`, or (transformers 5) one `rope_parameters`."""
    spellings = [found[name] for name in ("rope_parameters", "rope_scaling") if found[name] not in (None, {})]
    if len(spellings) == 2 and spellings[0] != spellings[1]:
        raise RunError(
            f"{where}: rope_parameters {spellings[0]!r:.200} and rope_scaling {spellings[1]!r:.200} differ; remove "
            "from a copy the one that is not meant."
        )
    stated = spellings[0] if spellings else {}
    check_kinds({"RoPE parameters": stated}, {"RoPE parameters": OBJECT}, where)
    stated = {"rope_theta": found["rope_theta"], **stated}
    kind = stated.get("rope_type", stated.get("type", "default"))
    names = {
        "default": (),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    known = isinstance(kind, str) and kind in names
    if not known or set(stated) - {"rope_theta", "rope_type", "type"} != set(names[kind]):
        raise RunError(
            f"{where}: RoPE parameters {dict(stated)} are not implemented; expected rope_type default, "
            f"or llama3 with exactly {', '.join(names['llama3'])}."
        )
    check_kinds(stated, dict.fromkeys(("rope_theta", *names[kind]), NUMBER), where)
    scaling = RopeScaling(*(stated[name] for name in names[kind])) if kind == "llama3" else None
    return float(stated["rope_theta"]), scaling
