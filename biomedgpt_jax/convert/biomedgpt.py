"""BiomedGPT: the names of its fairseq checkpoints, and of OFA's Hugging Face form, which renames some of them.

One table is written here, that of fairseq; the other follows from it by `hf_name`. What is stored besides the
parameters (buffers, copies of the embedding) is in convert/biomedgpt_buffers.py.
"""

from dataclasses import replace

from biomedgpt_jax.convert.mapping import Rule, prefixed

EMBEDDING = "encoder.embed_tokens.weight"
STAGES = (1, 2, 3)

# Endings and beginnings that differ in the Hugging Face form, tried in order.
_HF_RENAMES = (
    ("encoder.", ".attn_ln.", ".self_attn_mid_layer_norm."),
    ("decoder.", ".self_attn_ln.", ".self_attn_mid_layer_norm."),
    ("decoder.", ".cross_attn_ln.", ".cross_attn_mid_layer_norm."),
    ("decoder.", ".encoder_attn.", ".cross_attn."),
    ("decoder.", ".encoder_attn_layer_norm.", ".cross_attn_layer_norm."),
    ("", ".ffn_layernorm.", ".ffn_layer_norm."),
)


def hf_name(key: str) -> str:
    """The name in OFA's Hugging Face form of a name in a fairseq checkpoint (facts 12.3)."""
    for side, fairseq, hf in _HF_RENAMES:
        if key.startswith(f"{side or ''}") and ".layers." in key and fairseq in key:
            return key.replace(fairseq, hf)
    return key


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{theirs}.weight", f"{ours}/scale", "d -> d"), Rule(f"{theirs}.bias", f"{ours}/bias", "d -> d"))


def _heads(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A linear whose outputs are heads."""
    return (
        Rule(f"{theirs}.weight", f"{ours}/kernel", "(h k) d -> d h k"),
        Rule(f"{theirs}.bias", f"{ours}/bias", "(h k) -> h k"),
    )


def _linear(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{theirs}.weight", f"{ours}/kernel", "o i -> i o"), Rule(f"{theirs}.bias", f"{ours}/bias", "o -> o"))


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *(rule for name in "qkv" for rule in _heads(f"{theirs}.{name}_proj", f"{ours}/{name}")),
        Rule(f"{theirs}.out_proj.weight", f"{ours}/out/kernel", "d (h k) -> h k d"),
        Rule(f"{theirs}.out_proj.bias", f"{ours}/out/bias", "d -> d"),
        Rule(f"{theirs}.c_attn", f"{ours}/head_scale", "h -> h"),
    )


def _mlp() -> tuple[Rule, ...]:
    return (
        *_norm("final_layer_norm", "mlp_norm"),
        *_linear("fc1", "mlp/up"),
        *_norm("ffn_layernorm", "mlp/inner_norm"),
        *_linear("fc2", "mlp/down"),
    )


def _relative(side: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{side}.{kind}_rel_pos_table_list.{{layer}}.weight", f"{side}/layers/{ours}_bias", "r h -> r h")
        for kind, ours in (("token", "text"), ("image", "image"))
    )


def _positions(side: str, projections: tuple[tuple[str, str], ...]) -> tuple[Rule, ...]:
    return (
        Rule(f"{side}.embed_positions.weight", f"{side}/positions/text", "n d -> n d"),
        Rule(f"{side}.embed_image_positions.weight", f"{side}/positions/image", "n d -> n d"),
        *_norm(f"{side}.pos_ln", f"{side}/positions/text_norm"),
        *_norm(f"{side}.image_pos_ln", f"{side}/positions/image_norm"),
        *(rule for theirs, ours in projections for rule in _heads(f"{side}.{theirs}", f"{side}/positions/{ours}")),
    )


def _convolution(theirs: str, ours: str) -> Rule:
    return Rule(f"{theirs}.weight", f"{ours}/kernel", "o i h w -> h w i o")


def _batch_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *_norm(theirs, ours),
        Rule(f"{theirs}.running_mean", f"{ours}/mean", "d -> d"),
        Rule(f"{theirs}.running_var", f"{ours}/variance", "d -> d"),
    )


def _block() -> tuple[Rule, ...]:
    parts = [(_convolution(f"conv{n}", f"conv{n}"), *_batch_norm(f"bn{n}", f"norm{n}")) for n in STAGES]
    return tuple(rule for part in parts for rule in part)


def _stage(number: int) -> tuple[Rule, ...]:
    """The first block changes the width; those after it are alike, and stacked."""
    theirs, ours = f"layer{number}.", f"stage{number}/"
    down = (_convolution("downsample.0", "downsample"), *_batch_norm("downsample.1", "downsample_norm"))
    rest = prefixed(_block(), theirs=f"{theirs}{{layer}}.", ours=f"{ours}rest/")
    return (
        *prefixed((*_block(), *down), theirs=f"{theirs}0.", ours=f"{ours}first/"),
        *(replace(rule, first=1) for rule in rest),
    )


_STEM = (
    _convolution("conv1", "conv1"),
    *_batch_norm("bn1", "norm1"),
    *(rule for number in STAGES for rule in _stage(number)),
)
_ENCODER_LAYER = (
    *_norm("self_attn_layer_norm", "attention_norm"),
    *_attention("self_attn", "attention"),
    *_norm("attn_ln", "attention_out_norm"),
    *_mlp(),
)
_DECODER_LAYER = (
    *_norm("self_attn_layer_norm", "self_norm"),
    *_attention("self_attn", "self_attention"),
    *_norm("self_attn_ln", "self_out_norm"),
    *_norm("encoder_attn_layer_norm", "cross_norm"),
    *_attention("encoder_attn", "cross_attention"),
    *_norm("cross_attn_ln", "cross_out_norm"),
    *_mlp(),
)
_DECODER_PROJECTIONS = tuple(
    (f"{kind}_pos_{side}_linear", f"{kind}_{side}") for kind in ("self", "cross") for side in "qk"
)

FAIRSEQ_RULES: tuple[Rule, ...] = (
    Rule(EMBEDDING, "embed/embedding", "v d -> v d"),
    *prefixed(_STEM, theirs="encoder.embed_images.", ours="encoder/stem/"),
    *_linear("encoder.image_proj", "encoder/image_projection"),
    Rule("encoder.type_embedding.weight", "encoder/type_embedding", "n d -> n d"),
    *_norm("encoder.layernorm_embedding", "encoder/text_norm"),
    *_norm("encoder.patch_layernorm_embedding", "encoder/patch_norm"),
    *_positions("encoder", (("pos_q_linear", "q"), ("pos_k_linear", "k"))),
    *prefixed(_ENCODER_LAYER, theirs="encoder.layers.{layer}.", ours="encoder/layers/"),
    *_relative("encoder"),
    *_norm("encoder.layer_norm", "encoder/norm"),
    *_norm("decoder.layernorm_embedding", "decoder/text_norm"),
    *_norm("decoder.code_layernorm_embedding", "decoder/code_norm"),
    *_positions("decoder", _DECODER_PROJECTIONS),
    *prefixed(_DECODER_LAYER, theirs="decoder.layers.{layer}.", ours="decoder/layers/"),
    *_relative("decoder"),
    *_norm("decoder.layer_norm", "decoder/norm"),
)
HF_RULES = tuple(replace(rule, theirs=hf_name(rule.theirs)) for rule in FAIRSEQ_RULES)
