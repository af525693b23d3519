"""Published decoders by name, and small ones for tests and the smoke run.

Numbers are those of the config.json published with each model; the parameter counts are checked against
the published ones in tests/models/test_llama.py.
"""

import math
from dataclasses import replace

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.layers.position import RopeScaling
from biomedgpt_jax.models.llama import LlamaConfig


def decoder_preset(name: str) -> LlamaConfig:
    """The decoder of that name.

    Raises:
        UsageError: an unknown name.
    """
    if name not in PRESETS:
        raise UsageError(f'Decoder "{name}" is unknown; there are {", ".join(sorted(PRESETS))}.')
    return PRESETS[name]


def _llama(
    width: int,
    depth: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    *,
    vocab_size: int = 128256,
    rope_theta: float = 500_000.0,
    rope_scaling: RopeScaling | None = None,
    tied: bool = False,
) -> LlamaConfig:
    return LlamaConfig(
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width // heads,
        mlp_width=mlp_width,
        activation=Activation.SILU,
        vocab_size=vocab_size,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        eps=1e-5,
        norm_offset=0.0,
        qkv_bias=False,
        embed_scale=1.0,
        tied=tied,
        init_std=0.02,
    )


def _qwen2(
    width: int, depth: int, heads: int, kv_heads: int, mlp_width: int, vocab_size: int, *, tied: bool
) -> LlamaConfig:
    base = _llama(width, depth, heads, kv_heads, mlp_width, vocab_size=vocab_size, rope_theta=1e6, tied=tied)
    return replace(base, eps=1e-6, qkv_bias=True)


def _gemma(width: int, depth: int, heads: int, kv_heads: int, mlp_width: int) -> LlamaConfig:
    base = _llama(width, depth, heads, kv_heads, mlp_width, vocab_size=256_000, rope_theta=1e4, tied=True)
    return replace(
        base,
        head_dim=256,
        activation=Activation.GELU_TANH,
        eps=1e-6,
        norm_offset=1.0,
        embed_scale=math.sqrt(width),
    )


# transformers: rope_type "llama3"
_SCALED_8 = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192)
_SCALED_32 = replace(_SCALED_8, factor=32.0)

_LLAMA_70B = _llama(8192, 80, 64, 8, 28672)

PRESETS: dict[str, LlamaConfig] = {
    "llama-3-8b": _llama(4096, 32, 32, 8, 14336),
    "llama-3-70b": _LLAMA_70B,
    "llama-3.1-8b": _llama(4096, 32, 32, 8, 14336, rope_scaling=_SCALED_8),
    "llama-3.1-70b": replace(_LLAMA_70B, rope_scaling=_SCALED_8),
    "llama-3.1-405b": _llama(16384, 126, 128, 8, 53248, rope_scaling=_SCALED_8),
    "llama-3.2-1b": _llama(2048, 16, 32, 8, 8192, rope_scaling=_SCALED_32, tied=True),
    "llama-3.2-3b": _llama(3072, 28, 24, 8, 8192, rope_scaling=_SCALED_32, tied=True),
    "llama-3.3-70b": replace(_LLAMA_70B, rope_scaling=_SCALED_8),
    "tinyllama-1.1b": _llama(2048, 22, 32, 4, 5632, vocab_size=32_000, rope_theta=1e4),
    "smollm2-135m": _llama(576, 30, 9, 3, 1536, vocab_size=49_152, rope_theta=1e5, tied=True),
    "qwen2-0.5b": _qwen2(896, 24, 14, 2, 4864, 151_936, tied=True),
    "qwen2-1.5b": _qwen2(1536, 28, 12, 2, 8960, 151_936, tied=True),
    "qwen2-7b": _qwen2(3584, 28, 28, 4, 18944, 152_064, tied=False),
    "gemma-2b": _gemma(2048, 18, 8, 1, 16384),
    "gemma-7b": _gemma(3072, 28, 16, 16, 24576),
    # launch/smoke.sh: learns on two CPU cores; its tokenizer is trained on the spot.
    "smoke": _llama(128, 3, 4, 4, 384, vocab_size=1024, rope_theta=1e4, tied=True),
    # Tests: grouped heads, scaled rotations, an own head.
    "tiny": _llama(
        32,
        2,
        4,
        2,
        48,
        vocab_size=64,
        rope_theta=3e4,
        rope_scaling=RopeScaling(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=64),
    ),
}
