"""Facts about a BiomedGPT: its five published sizes, what may differ between checkpoints, and how one learns.

The architecture is OFA's (arXiv 2202.03052), the sizes are those of arXiv 2305.17100 and 2505.17436. Published
counts of parameters are in `PUBLISHED_PARAMETERS`.
"""

import math
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.layers.batch_norm import BatchNorm

LAYOUT = 128  # the head's columns are a multiple of it, as TPU's registers are wide


@dataclass(frozen=True)
class BiomedGptConfig:
    """Facts about one encoder-decoder; none has a default, so none can be forgotten."""

    width: int
    mlp_width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    stem_width: int  # channels behind the first convolution; patches have 16 times as many
    stem_blocks: tuple[int, int, int]
    vocab_size: int
    text_positions: int  # rows of the table of text positions
    image_grid: int  # rows and columns of patches that the tables of image positions know
    code_grid: int  # rows and columns of a picture's codes, as a target
    text_buckets: int  # distances to one side that the relative table of text tells apart, and one
    bucket_reach: int  # text distances from this on share the last bucket
    norm_eps: float
    position_scale: float  # queries are divided by the root of this many times the head's width
    scale_attention: bool  # a norm behind attention
    scale_mlp: bool  # a norm inside the MLP
    scale_heads: bool  # a factor for each head
    add_decoder_positions: bool  # to the decoder's embeddings, beside the bias that attention gets from them
    init_std: float

    def __post_init__(self):
        if self.width % self.heads:
            raise UsageError(f"A width of {self.width} does not divide into {self.heads} heads.")
        if self.code_grid > self.image_grid:
            raise UsageError(f"A code grid of {self.code_grid} is larger than the image grid of {self.image_grid}.")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding; those from `vocab_size` on are zeros."""
        return -(-self.vocab_size // LAYOUT) * LAYOUT

    @property
    def image_positions(self) -> int:
        """Rows of the table of image positions; the first stands for the beginning of a target of codes."""
        return self.image_grid**2 + 1

    @property
    def text_relations(self) -> int:
        """Rows of a layer's relative table of text."""
        return 2 * self.text_buckets - 1

    @property
    def image_relations(self) -> int:
        """Rows of a layer's relative table of images; the last three are for the beginning."""
        return (2 * self.image_grid - 1) ** 2 + 3

    @property
    def query_scale(self) -> float:
        return 1 / math.sqrt(self.position_scale * self.head_dim)


@dataclass(frozen=True)
class Learning:
    """What happens only while the model learns."""

    dropout: float
    drop_path: float  # of the last layer of encoder and decoder; the first has none, between them it grows evenly
    batch_norm: BatchNorm

    def __post_init__(self):
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and less than 1, found {getattr(self, name)}.")


def biomedgpt_preset(name: str) -> BiomedGptConfig:
    """The model of that name.

    Raises:
        UsageError: an unknown name.
    """
    if name not in PRESETS:
        raise UsageError(f'BiomedGPT "{name}" is unknown; there are {", ".join(PRESETS)}.')
    return PRESETS[name]


def counted_parameters(config: BiomedGptConfig, params: Any) -> int:
    """Parameters as publications count them: without the embedding's padding and BatchNorm's running statistics.

    Args:
        params: the model's parameters or their shapes (anything with `.size`).
    """
    leaves = leaf_paths(params)
    padding = (config.padded_vocab_size - config.vocab_size) * config.width
    return sum(leaf.size for path, leaf in leaves.items() if not is_statistic(path)) - padding


def is_statistic(path: str) -> bool:
    """Whether a parameter path is that of a running statistic."""
    return path.rsplit("/", 1)[-1] in ("mean", "variance")


def _model(
    width: int,
    heads: int,
    encoder_layers: int,
    decoder_layers: int,
    stem_blocks: tuple[int, int, int],
    *,
    stem_width: int = 64,
) -> BiomedGptConfig:
    return BiomedGptConfig(
        width=width,
        mlp_width=4 * width,
        heads=heads,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        stem_width=stem_width,
        stem_blocks=stem_blocks,
        vocab_size=59457,
        text_positions=1026,
        image_grid=42,
        code_grid=16,
        text_buckets=256,
        bucket_reach=1024,
        norm_eps=1e-5,
        position_scale=2.0,
        scale_attention=True,
        scale_mlp=True,
        scale_heads=True,
        add_decoder_positions=False,
        init_std=0.02,
    )


_RESNET50, _RESNET101, _RESNET152 = (3, 4, 6), (3, 4, 23), (3, 8, 36)

PRESETS: dict[str, BiomedGptConfig] = {
    "smoke": _model(64, 4, 2, 2, (1, 1, 1), stem_width=16),  # for tests and the smoke run; not published
    "tiny": _model(256, 4, 4, 4, _RESNET50),  # "small" in the papers
    "medium": _model(512, 8, 4, 4, _RESNET101),
    "base": _model(768, 12, 6, 6, _RESNET101),
    "large": _model(1024, 16, 12, 12, _RESNET152),  # "Large"
    "huge": _model(1280, 16, 24, 12, _RESNET152),  # "XLarge"
}

PUBLISHED_PARAMETERS = {
    "tiny": 33_488_336,
    "medium": 92_892_000,
    "base": 182_238_536,
    "large": 472_977_152,
    "huge": 929_486_848,
}
