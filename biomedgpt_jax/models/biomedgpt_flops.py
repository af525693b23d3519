"""Floating-point operations of a BiomedGPT, from its sizes: two for each multiplication that is added up."""

from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig

EXPANSION = 4  # of a bottleneck's channels
STRIDE = 16  # pixels of a patch


def forward_flops(config: BiomedGptConfig, source: int, target: int, image_size: int, *, causal: bool) -> int:
    """Of one row: its picture (image_size 0: none), `source` words, `target` words and their logits.

    Args:
        causal: half of the decoder's attention to itself counts, which is all that a kernel need compute.
    """
    d, f = config.width, config.mlp_width
    places = source + (image_size // STRIDE) ** 2
    encoder = places * (2 * (4 * d * d + 2 * d * f) + 4 * places * d)
    # Keys and values of the source are made once for each layer.
    itself = target * (8 * d * d + 4 * d * f + (2 if causal else 4) * target * d)
    across = target * (4 * d * d + 4 * places * d) + places * 4 * d * d
    # Products of the positions, once for all layers.
    positions = places * (4 * d * d + 2 * places * d) + target * (6 * d * d + 2 * target * d + 2 * places * d)
    stem = stem_flops(config, image_size) if image_size else 0
    layers = config.encoder_layers * encoder + config.decoder_layers * (itself + across)
    return stem + layers + positions + head_flops(config, target)


def train_flops(
    config: BiomedGptConfig, source: int, target: int, image_size: int, *, causal: bool, embeddings: bool, head: bool
) -> int:
    """Of one row's forward and backward pass, which costs two forward ones.

    Args:
        embeddings: whether they learn. The head is one with them; frozen, it is spared half of its backward pass.
        head: whether all words have logits. Those of a closed list are so few that they are not counted.
    """
    words = head_flops(config, target)
    rest = forward_flops(config, source, target, image_size, causal=causal) - words
    return 3 * rest + head * (3 if embeddings else 2) * words


def head_flops(config: BiomedGptConfig, target: int) -> int:
    """Of the logits."""
    return 2 * target * config.width * config.padded_vocab_size


def stem_flops(config: BiomedGptConfig, image_size: int) -> int:
    """Of the ResNet and the projection of its patches."""
    width, total = config.stem_width, 2 * (image_size // 2) ** 2 * 7 * 7 * 3 * config.stem_width
    channels, side = width, image_size // 4
    for stage, blocks in enumerate(config.stem_blocks):
        inner = width * 2**stage
        for block in range(blocks):
            before, first = side, block == 0
            side //= 2 if first and stage else 1
            # The first convolution still sees the larger map; the second one strides.
            total += 2 * (before**2 * channels * inner + side**2 * (9 * inner * inner + EXPANSION * inner * inner))
            total += 2 * side**2 * channels * EXPANSION * inner if first else 0
            channels = EXPANSION * inner
    return total + 2 * side**2 * channels * config.width
