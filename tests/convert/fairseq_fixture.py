"""Checkpoints as fairseq and OFA's Hugging Face form publish them: every key and shape, random values, small widths.

The inventory is written out here by hand from the published one, so that it can contradict the rule tables.
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers

from biomedgpt_jax.data.biomedgpt_tokens import PUBLISHED_IDS

Shape = tuple[int, ...]
VOCABULARY = 59457


@dataclass(frozen=True)
class Sizes:
    width: int
    mlp: int
    encoder: int  # layers
    decoder: int
    heads: int
    resnet: str


BLOCKS = {"resnet50": (3, 4, 6), "resnet101": (3, 4, 23), "resnet152": (3, 8, 36)}
PUBLISHED = {
    "tiny": Sizes(256, 1024, 4, 4, 4, "resnet50"),
    "medium": Sizes(512, 2048, 4, 4, 8, "resnet101"),
    "base": Sizes(768, 3072, 6, 6, 12, "resnet101"),
    "large": Sizes(1024, 4096, 12, 12, 16, "resnet152"),
    "huge": Sizes(1280, 5120, 24, 12, 16, "resnet152"),
}
SMALL = Sizes(12, 20, 2, 1, 3, "resnet50")


def parameter_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Learnt tensors, the embedding once."""
    d = sizes.width
    shapes: dict[str, Shape] = {"encoder.embed_tokens.weight": (VOCABULARY, d)}
    shapes |= {key: shape for key, shape in _stem(sizes).items() if not _is_statistic(key)}
    shapes |= {"encoder.image_proj.weight": (d, 1024), "encoder.image_proj.bias": (d,)}
    shapes |= {"encoder.type_embedding.weight": (2, d)}
    for side, layers in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
        shapes |= {f"{side}.embed_positions.weight": (1026, d), f"{side}.embed_image_positions.weight": (1765, d)}
        norms = ["layernorm_embedding", "pos_ln", "image_pos_ln", "layer_norm"]
        norms.append("patch_layernorm_embedding" if side == "encoder" else "code_layernorm_embedding")
        for norm in norms:
            shapes |= _norm(f"{side}.{norm}", d)
        for layer in range(layers):
            shapes |= _layer(side, layer, sizes)
            shapes[f"{side}.token_rel_pos_table_list.{layer}.weight"] = (511, sizes.heads)
            shapes[f"{side}.image_rel_pos_table_list.{layer}.weight"] = (6892, sizes.heads)
    linears = ["encoder.pos_q_linear", "encoder.pos_k_linear"]
    linears += [f"decoder.{kind}_pos_{side}_linear" for kind in ("self", "cross") for side in "qk"]
    for name in linears:
        shapes |= {f"{name}.weight": (d, d), f"{name}.bias": (d,)}
    return shapes


def buffer_shapes(sizes: Sizes) -> dict[str, Shape]:
    """What is stored besides, without the two copies of the embedding."""
    shapes = {key: shape for key, shape in _stem(sizes).items() if _is_statistic(key)}
    for side in ("encoder", "decoder"):
        shapes |= {
            f"{side}.version": (1,),
            f"{side}.token_rp_bucket": (1024, 1024),
            f"{side}.image_rp_bucket": (1765, 1765),
        }
    return shapes | {"decoder.image_position_idx": (1026,)}


def state_dict(sizes: Sizes, seed: int = 0) -> dict[str, torch.Tensor]:
    """All of a fairseq state dict; tables are those that follow from the sizes."""
    rng = np.random.default_rng(seed)
    state = {
        key: torch.from_numpy(rng.standard_normal(shape, np.float32)) for key, shape in parameter_shapes(sizes).items()
    }
    for key, shape in buffer_shapes(sizes).items():
        counted = key.endswith(("running_mean", "running_var"))
        state[key] = torch.from_numpy(rng.random(shape, np.float32)) if counted else torch.tensor(17)
    for side in ("encoder", "decoder"):
        state[f"{side}.version"] = torch.tensor([3.0])
        state[f"{side}.token_rp_bucket"] = token_buckets()
        state[f"{side}.image_rp_bucket"] = image_buckets()
    codes = [row * 42 + column + 1 for row in range(16) for column in range(16)]
    state["decoder.image_position_idx"] = torch.tensor([0, *codes, *([1024] * 769)])
    for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        state[name] = state["encoder.embed_tokens.weight"].clone()
    return state


def token_buckets() -> torch.Tensor:
    """int64 [query key], written as the published description says it."""
    distance = torch.arange(1024)[:, None] - torch.arange(1024)[None, :]
    size = distance.abs().clamp(min=128)
    far = torch.ceil(torch.log(size / 128) / np.log(1023 / 128) * 127) + 128
    return torch.where(distance.abs() <= 128, distance, distance.sign() * far.long()) + 255


def image_buckets() -> torch.Tensor:
    row, column = (torch.arange(1764) // 42), (torch.arange(1764) % 42)
    table = torch.zeros(1765, 1765, dtype=torch.long)
    table[1:, 1:] = (row[:, None] - row + 41) * 83 + column[:, None] - column + 41
    table[0], table[:, 0], table[0, 0] = 6889, 6890, 6891
    return table


def settings(sizes: Sizes) -> dict[str, Any]:
    """Of the model and, some of them, of the run, as a checkpoint stores them in one list."""
    both = ("encoder", "decoder")
    return {
        **{f"{side}_embed_dim": sizes.width for side in both},
        **{f"{side}_ffn_embed_dim": sizes.mlp for side in both},
        **{f"{side}_attention_heads": sizes.heads for side in both},
        **{f"{side}_{switch}": True for side in both for switch in ("normalize_before", "learned_pos")},
        "encoder_layers": sizes.encoder,
        "decoder_layers": sizes.decoder,
        "resnet_type": sizes.resnet,
        **dict.fromkeys(("max_source_positions", "max_target_positions"), 1024),
        **{"token_bucket_size": 256, "image_bucket_size": 42, "code_image_size": 128, "attn_scale_factor": 2.0},
        **dict.fromkeys(("scale_attn", "scale_fc", "scale_heads", "disable_entangle", "add_type_embedding"), True),
        **dict.fromkeys(("layernorm_embedding", "patch_layernorm_embedding", "code_layernorm_embedding"), True),
        **dict.fromkeys(("share_all_embeddings", "share_decoder_input_output_embed", "no_scale_embedding"), True),
        **dict.fromkeys(("scale_resids", "sync_bn", "entangle_position_embedding", "interpolate_position"), False),
        **{"activation_fn": "gelu", "adaptive_softmax_cutoff": None, "decoder_output_dim": sizes.width},
        # of the run
        **{"_name": "ofa_tiny", "arch": "ofa_tiny", "task": "vqa_gen", "data": "train.tsv,val.tsv", "lr": [5e-05]},
        **{"dropout": 0.1, "encoder_drop_path_rate": 0.1, "adam_betas": "(0.9,0.999)", "fp16": True, "max_epoch": 100},
        **{"ema_decay": 0.9999, "label_smoothing": 0.1, "patch_image_size": 384, "bitfit": False, "adapter": False},
        **{"encoder_prompt": False, "encoder_prompt_length": 100, "quant_noise_pq_block_size": 8, "num_workers": 0},
    }


def save_checkpoint(path: Path, state: dict[str, torch.Tensor], sizes: Sizes, **changed: Any) -> Path:
    """As fairseq saves it; `changed` are settings, `extra_state` and `without` excepted."""
    extra = changed.pop("extra_state", {"train_iterator": {"epoch": 3}, "val_loss": None})
    without = changed.pop("without", ())
    stored = {name: value for name, value in {**settings(sizes), **changed}.items() if name not in without}
    checkpoint = {
        "args": argparse.Namespace(**stored),
        "model": state,
        "optimizer_history": [{"criterion_name": "AdjustLabelSmoothedCrossEntropyCriterion", "num_updates": 7}],
        "extra_state": extra,
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    torch.save(checkpoint, path)
    return path


# From fairseq's names to those of the Hugging Face form, by layer.
HF_NAMES = {
    "encoder": {"attn_ln": "self_attn_mid_layer_norm", "ffn_layernorm": "ffn_layer_norm"},
    "decoder": {
        "self_attn_ln": "self_attn_mid_layer_norm",
        "cross_attn_ln": "cross_attn_mid_layer_norm",
        "encoder_attn": "cross_attn",
        "encoder_attn_layer_norm": "cross_attn_layer_norm",
        "ffn_layernorm": "ffn_layer_norm",
    },
}


def hf_state_dict(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if parts[1] == "version":
            continue
        if parts[1] == "layers":
            parts[3] = HF_NAMES[parts[0]].get(parts[3], parts[3])
        renamed[".".join(parts)] = tensor
    return renamed


def hf_config(sizes: Sizes) -> dict[str, Any]:
    both = ("encoder", "decoder")
    return {
        "architectures": ["OFAModel"],
        "model_type": "ofa",
        "d_model": sizes.width,
        **{f"{side}_ffn_dim": sizes.mlp for side in both},
        **{f"{side}_attention_heads": sizes.heads for side in both},
        **{f"{side}_normalize_before": True for side in both},
        **{f"{side}_layerdrop": 0.0 for side in both},
        **{"encoder_layers": sizes.encoder, "decoder_layers": sizes.decoder, "num_hidden_layers": sizes.encoder},
        **{"resnet_type": sizes.resnet, "resnet_model_path": None, "resnet_drop_path_rate": 0.0, "normformer": True},
        **{"activation_function": "gelu", "activation_dropout": 0.0, "attention_dropout": 0.0, "dropout": 0.1},
        **{
            "max_position_embeddings": 1024,
            "vocab_size": VOCABULARY,
            "token_bucket_size": 256,
            "image_bucket_size": 42,
        },
        **{"code_image_size": 128, "attn_scale_factor": 2.0, "scale_embedding": False, "init_std": 0.02},
        **{"entangle_position_embedding": False, "share_decoder_input_output_embed": True, "add_type_embedding": True},
        **dict.fromkeys(("layernorm_embedding", "patch_layernorm_embedding", "code_layernorm_embedding"), True),
        **{
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 0,
            "forced_eos_token_id": 2,
        },
        **{"is_encoder_decoder": True, "use_cache": True, "torch_dtype": "float32", "transformers_version": "4.18.0"},
    }


def save_hf_folder(folder: Path, state: dict[str, torch.Tensor], sizes: Sizes) -> Path:
    folder.mkdir()
    torch.save(hf_state_dict(state), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(hf_config(sizes)))
    return folder


def save_dictionary(folder: Path, words: int = 50257) -> Path:
    """The files of GPT-2 and fairseq, in which the words that are checked have their published places."""
    folder.mkdir()
    checked = {
        piece.replace(" ", "Ġ"): number - 4
        for text, numbers in PUBLISHED_IDS.items()
        for piece, number in zip(re.findall(r" \w+|\?", text), numbers, strict=True)
    }
    grown = dict.fromkeys(piece[:size] for piece in checked for size in range(2, len(piece) + 1))
    others = [each for each in (*pre_tokenizers.ByteLevel.alphabet(), *grown) if each not in checked]
    rest = iter([*others, *(f"word{n}" for n in range(words - len(others) - len(checked)))])
    at = {place: piece for piece, place in checked.items()}
    order = {at[place] if place in at else next(rest): place for place in range(words)}
    (folder / "encoder.json").write_text(json.dumps(order))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *(f"{each[:-1]} {each[-1]}" for each in grown), ""]))
    lines = [*(f"{place} 1" for place in range(words)), *(f"madeupword{n:04d} 0" for n in range(3))]
    (folder / "dict.txt").write_text("\n".join([*lines, ""]))
    return folder


def _stem(sizes: Sizes) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"conv1.weight": (64, 3, 7, 7), **_batch_norm("bn1", 64)}
    channels = 64
    for stage, (count, inside) in enumerate(zip(BLOCKS[sizes.resnet], (64, 128, 256), strict=True), 1):
        for block in range(count):
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (inside, channels, 1, 1), f"{name}.conv2.weight": (inside, inside, 3, 3)}
            shapes |= {f"{name}.conv3.weight": (4 * inside, inside, 1, 1)}
            shapes |= _batch_norm(f"{name}.bn1", inside) | _batch_norm(f"{name}.bn2", inside)
            shapes |= _batch_norm(f"{name}.bn3", 4 * inside)
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * inside, channels, 1, 1)}
                shapes |= _batch_norm(f"{name}.downsample.1", 4 * inside)
            channels = 4 * inside
    return {f"encoder.embed_images.{key}": shape for key, shape in shapes.items()}


def _layer(side: str, layer: int, sizes: Sizes) -> dict[str, Shape]:
    d, shapes = sizes.width, {}
    attentions = ["self_attn"] if side == "encoder" else ["self_attn", "encoder_attn"]
    for attention in attentions:
        shapes[f"{attention}.c_attn"] = (sizes.heads,)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{attention}.{name}.weight": (d, d), f"{attention}.{name}.bias": (d,)}
    norms = ["self_attn_layer_norm", "final_layer_norm", *(["attn_ln"] if side == "encoder" else [])]
    norms += ["self_attn_ln", "encoder_attn_layer_norm", "cross_attn_ln"] if side == "decoder" else []
    for norm in norms:
        shapes |= _norm(norm, d)
    shapes |= {"fc1.weight": (sizes.mlp, d), "fc1.bias": (sizes.mlp,), "fc2.weight": (d, sizes.mlp), "fc2.bias": (d,)}
    shapes |= _norm("ffn_layernorm", sizes.mlp)
    return {f"{side}.layers.{layer}.{key}": shape for key, shape in shapes.items()}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _batch_norm(name: str, width: int) -> dict[str, Shape]:
    statistics = {f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()}
    return _norm(name, width) | statistics


def _is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))
