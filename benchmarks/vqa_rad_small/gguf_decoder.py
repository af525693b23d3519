"""A Llama decoder and its tokenizer out of a GGUF file, as a Hugging Face folder in float32.

GGUF keeps block-quantised weights under llama.cpp's names, with the rows of the query and key kernels in another
order (rotary pairs side by side). What comes out is what a float model of the quantised weights is.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # the token type of special tokens
PRE_TOKENIZER = "smollm"  # digits one by one, then GPT-2's rule
# Of SmolLM2's special tokens one that no text of ours can hold: it stands at image positions.
IMAGE_TOKEN = "<empty_output>"


def write_decoder(file: Path, folder: Path) -> None:
    """Writes config.json, model.safetensors, the tokenizer's files and a card into `folder`.

    Raises:
        ValueError: the file holds another architecture, tokenizer or tensor than this reader knows.
    """
    reader = gguf.GGUFReader(str(file))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    expected = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": PRE_TOKENIZER}
    for name, value in expected.items():
        if fields.get(name) != value:
            raise ValueError(f"{file}: {name} is {fields.get(name)!r}, expected {value!r}")
    folder.mkdir(parents=True, exist_ok=True)
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    save_file(dict(_tensor(each, heads) for each in reader.tensors), folder / "model.safetensors")
    _write(folder / "config.json", _config(fields))
    _write_tokenizer(fields, folder)
    (folder / "README.md").write_text(f"---\nlicense: {fields['general.license']}\n---\n{fields['general.name']}\n")


def _tensor(tensor: Any, heads: dict[str, int]) -> tuple[str, np.ndarray]:
    weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    if tensor.name in NAMES:
        return NAMES[tensor.name], weights
    block, layer, kind, _ = tensor.name.split(".")
    if block != "blk" or kind not in BLOCK_NAMES:
        raise ValueError(f"tensor {tensor.name} is none of a Llama decoder")
    if kind in heads:
        weights = halves_apart(weights, heads[kind])
    return f"model.layers.{layer}.{BLOCK_NAMES[kind]}.weight", np.ascontiguousarray(weights)


def halves_apart(kernel: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (0 h 1 h+1 ...), llama.cpp's order of rotary pairs, to (0 1 ... h h+1 ...)."""
    pairs = kernel.reshape(heads, -1, 2, kernel.shape[-1])
    return pairs.swapaxes(1, 2).reshape(kernel.shape)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(float(fields["llama.attention.layer_norm_rms_epsilon"]), 9),
        "rope_theta": float(fields["llama.rope.freq_base"]),
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    }


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        f"{role}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    }
    settings = {
        **named,
        "add_bos_token": bool(fields["tokenizer.ggml.add_bos_token"]),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
    }
    _write(folder / "tokenizer_config.json", settings)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
