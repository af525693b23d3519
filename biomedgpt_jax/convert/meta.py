"""Llama as Meta publishes it: `params.json` and `consolidated.00.pth` to `.07.pth`, one file per model-parallel rank.

The files are read as if they were one folder of Hugging Face: other names, parts joined, and the rows of queries and
keys in another order, because Meta rotates neighbouring pairs (2i, 2i+1) and transformers rotates (i, i + k/2).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import einops
import numpy as np

from biomedgpt_jax.convert.attributes import read_attributes
from biomedgpt_jax.convert.kinds import (
    COUNT,
    COUNT_OR_NULL,
    FLAG,
    NUMBER,
    NUMBER_OR_NULL,
    SIZE,
    WHOLE,
    check_heads,
    check_kinds,
)
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.torch_file import TorchFile
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.layers.position import RopeScaling
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama import LlamaConfig

PARAMS = "params.json"
FAMILY = "meta-llama"  # instead of a model_type
IGNORED = (r"rope\.freqs",)  # they follow from the configuration

_EMBEDDING, _HEAD = "tok_embeddings.weight", "output.weight"


@dataclass(frozen=True)
class _Name:
    """Of Hugging Face, and the axis along which the ranks share a tensor; None: each rank has all of it."""

    hf: str
    axis: int | None


# Of a layer, without its prefix. Column-parallel modules share rows of the matrix, row-parallel ones columns.
_LAYER = {
    "attention.wq.weight": _Name("self_attn.q_proj.weight", 0),
    "attention.wk.weight": _Name("self_attn.k_proj.weight", 0),
    "attention.wv.weight": _Name("self_attn.v_proj.weight", 0),
    "attention.wo.weight": _Name("self_attn.o_proj.weight", 1),
    "feed_forward.w1.weight": _Name("mlp.gate_proj.weight", 0),
    "feed_forward.w2.weight": _Name("mlp.down_proj.weight", 1),
    "feed_forward.w3.weight": _Name("mlp.up_proj.weight", 0),
    "attention_norm.weight": _Name("input_layernorm.weight", None),
    "ffn_norm.weight": _Name("post_attention_layernorm.weight", None),
}
_ROTATED = re.compile(r".*\.self_attn\.(q|k)_proj\.weight")

# What Meta's code assumes for an absent entry.
_DEFAULTS = {
    "n_kv_heads": None,
    "ffn_dim_multiplier": None,
    "rope_theta": 10000.0,
    "use_scaled_rope": False,
    "rope_scaling_factor": None,
}
_REQUIRED = frozenset({"dim", "n_layers", "n_heads", "multiple_of", "norm_eps"})
_KINDS = {
    "dim": COUNT,
    "n_layers": SIZE,
    "n_heads": COUNT,
    "n_kv_heads": COUNT_OR_NULL,
    "multiple_of": COUNT,
    "norm_eps": NUMBER,
    "rope_theta": NUMBER,
    "ffn_dim_multiplier": NUMBER_OR_NULL,
    "use_scaled_rope": FLAG,
    "rope_scaling_factor": NUMBER_OR_NULL,
}


def open_meta(folder: Path, params: Mapping[str, Any]) -> tuple[LlamaConfig, "MetaTensors"]:
    """The configuration that params.json means, and the tensors under the names of Hugging Face.

    Raises:
        RunError: an unknown entry of params.json, missing ranks, or ranks that hold different tensors.
    """
    where, ranks = str(folder / PARAMS), _ranks(folder)
    tied, vocab = _HEAD not in ranks[0], params.get("vocab_size", 0)
    check_kinds({"vocab_size": vocab}, {"vocab_size": WHOLE}, where)
    if vocab <= 0:  # Llama 1 and 2 leave it to the tokenizer
        if tied:
            raise RunError(
                f"{where}: vocab_size is {vocab} and there is no {_HEAD} to tell it; write the number there."
            )
        vocab = ranks[0].shape(_HEAD)[0] * len(ranks)
    config = params_config(params, vocab, tied, where)
    return config, MetaTensors(ranks, config, str(folder))


def params_config(params: Mapping[str, Any], vocab: int, tied: bool, where: str) -> LlamaConfig:
    """The model that the content of params.json means; the words and whether the head is tied, the weights say.

    Raises:
        RunError: an unknown or missing entry, or scaled positions without a factor.
    """
    found = read_attributes(
        {key: value for key, value in params.items() if key != "model_type"},
        where=where,
        defaults=_DEFAULTS,
        required=_REQUIRED,
        fixed={},
        ignored=frozenset({"max_seq_len", "max_batch_size", "model_parallel_size", "vocab_size"}),
    )
    check_kinds(found, _KINDS, where)
    width, heads = found["dim"], found["n_heads"]
    check_heads(width, heads, where)
    # Two thirds of four times the width, times the multiplier, up to the next multiple.
    hidden = int((found["ffn_dim_multiplier"] or 1) * int(2 * 4 * width / 3))
    config = LlamaConfig(
        width=width,
        depth=found["n_layers"],
        heads=heads,
        kv_heads=found["n_kv_heads"] or heads,
        head_dim=width // heads,
        mlp_width=found["multiple_of"] * ceil(hidden / found["multiple_of"]),
        activation=Activation.SILU,
        vocab_size=vocab,
        rope_theta=float(found["rope_theta"]),
        rope_scaling=None,
        eps=found["norm_eps"],
        norm_offset=0.0,
        qkv_bias=False,
        embed_scale=1.0,
        tied=tied,
        init_std=0.02,
    )
    return replace(config, rope_scaling=_scaling(found, config, where)) if found["use_scaled_rope"] else config


class MetaTensors(Tensors):
    """Names of Hugging Face -> arrays over the files of all ranks; a lookup reads one tensor."""

    def __init__(self, ranks: tuple[TorchFile, ...], config: LlamaConfig, where: str):
        self.files = tuple(file for rank in ranks for file in rank.files)
        self._ranks, self._config, self._where = ranks, config, where
        table = _table(self._embedding_axis())
        self._theirs: dict[str, tuple[str, int | None]] = {}  # their key, and the axis that the ranks share
        for key in ranks[0]:
            layer, inside = _split(key)
            name = table.get(inside)
            if name is None:
                self._theirs[key] = key, None  # the importer says what it does not expect
            else:
                self._theirs[layer.replace("layers.", "model.layers.") + name.hf] = key, name.axis

    def __getitem__(self, key: str) -> np.ndarray:
        theirs, axis = self._theirs[key]
        first = self._ranks[0][theirs]
        if axis is None:
            for rank in self._ranks[1:]:
                if not np.array_equal(rank[theirs].view(np.uint8), first.view(np.uint8)):
                    raise RunError(
                        f"{rank.path}: tensor {theirs} differs from that in {self._ranks[0].path.name}; "
                        "every rank should have the same. The files are not of one save."
                    )
            return first
        whole = first
        if len(self._ranks) > 1:
            whole, width = np.empty(self.shape(key), first.dtype), first.shape[axis]
            for number, rank in enumerate(self._ranks):
                part = slice(number * width, (number + 1) * width)
                whole[(slice(None),) * axis + (part,)] = first if number == 0 else rank[theirs]
        rotated = _ROTATED.fullmatch(key)
        return whole if rotated is None else self._halves(whole, rotated[1])

    def shape(self, key: str) -> tuple[int, ...]:
        theirs, axis = self._theirs[key]
        part = self._ranks[0].shape(theirs)
        return tuple(size * len(self._ranks) if index == axis else size for index, size in enumerate(part))

    def __iter__(self) -> Iterator[str]:
        return iter(self._theirs)

    def __len__(self) -> int:
        return len(self._theirs)

    def _halves(self, matrix: np.ndarray, which: str) -> np.ndarray:
        """Rows of each head: first the even ones, then the odd ones."""
        heads = self._config.heads if which == "q" else self._config.kv_heads
        return einops.rearrange(matrix, "(h k two) d -> (h two k) d", h=heads, two=2)

    def _embedding_axis(self) -> int:
        """Llama 1 and 2 share columns of the embedding table, Llama 3 rows: its shape tells which."""
        whole, ranks = (self._config.vocab_size, self._config.width), len(self._ranks)
        part = self._ranks[0].shape(_EMBEDDING) if _EMBEDDING in self._ranks[0] else whole
        axes = [axis for axis in (0, 1) if part == tuple(n // ranks if a == axis else n for a, n in enumerate(whole))]
        if not axes:
            raise RunError(
                f"{self._where}: {_EMBEDDING} has shape {part} in each of {ranks} files, which is neither a share of "
                f"the rows nor of the columns of {whole} (vocab_size, dim). Are all consolidated files there?"
            )
        return axes[0]


def _table(embedding_axis: int) -> dict[str, _Name]:
    """Their names, without the layer, to those of Hugging Face."""
    return {
        _EMBEDDING: _Name("model.embed_tokens.weight", embedding_axis),
        "norm.weight": _Name("model.norm.weight", None),
        _HEAD: _Name("lm_head.weight", 0),
        **_LAYER,
    }


def _split(key: str) -> tuple[str, str]:
    """Of "layers.3.attention.wq.weight" ("layers.3.", the rest); other keys have no layer."""
    found = re.match(r"layers\.\d+\.", key)
    return (found[0], key[found.end() :]) if found else ("", key)


def _ranks(folder: Path) -> tuple[TorchFile, ...]:
    files = sorted(folder.glob("consolidated.*.pth"))
    expected = [f"consolidated.{number:02d}.pth" for number in range(len(files))]
    if not files or [file.name for file in files] != expected:
        raise RunError(
            f"{folder}: expected consolidated.00.pth and on without a gap beside {PARAMS}, found "
            f"{', '.join(file.name for file in files) or 'none'}. Download the missing files."
        )
    ranks = tuple(TorchFile(file) for file in files)
    for rank in ranks[1:]:
        other = {key: rank.shape(key) for key in rank} if len(rank) else {}
        same = {key: ranks[0].shape(key) for key in ranks[0]}
        if other != same:
            first = sorted(key for key in {*same, *other} if same.get(key) != other.get(key))[0]
            raise RunError(
                f"{rank.path}: tensor {first} is {other.get(first, 'absent')}, in {ranks[0].path.name} it is "
                f"{same.get(first, 'absent')}; all ranks should be alike. Download the files again."
            )
    return ranks


def _scaling(found: Mapping[str, Any], config: LlamaConfig, where: str) -> RopeScaling:
    """params.json says that positions are scaled, but of most models not by how much: 8 in 3.1, 32 in 3.2."""
    if found["rope_scaling_factor"] is not None:
        return RopeScaling(float(found["rope_scaling_factor"]), 1.0, 4.0, 8192)
    alike = {
        preset.rope_scaling
        for preset in PRESETS.values()
        if preset.rope_scaling and replace(preset, rope_scaling=None, tied=config.tied) == config
    }
    if len(alike) != 1:
        raise RunError(
            f"{where}: use_scaled_rope is true, but not by which factor, and no published model has these sizes. "
            'Add "rope_scaling_factor" to a copy (8 in Llama 3.1 and 3.3, 32 in Llama 3.2).'
        )
    return alike.pop()
