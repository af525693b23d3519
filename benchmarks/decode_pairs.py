"""BiomedGPT's greedy and beam search against `generate` of transformers: python benchmarks/decode_pairs.py [shape ...]

The other side is a BART of the same width, depth, heads and vocabulary, behind a ResNet of the same blocks where there
are pictures. Both have random weights in float32, read the same source and make a fixed number of tokens with a KV
cache. A call is timed as a whole: encoding, and NEW tokens. Compile time is not counted.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import chosen, compare, machine, software
from transformers import BartConfig, BartForConditionalGeneration, ResNetBackbone, ResNetConfig
from transformers.modeling_outputs import BaseModelOutput

from biomedgpt_jax.core.host_memory import keep_freed_memory
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.eval.beam import Beams, beam_search
from biomedgpt_jax.eval.decode import Limits, greedy
from biomedgpt_jax.layers.batch_norm import BatchNorm
from biomedgpt_jax.models.biomedgpt import make_biomedgpt
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig, Learning, biomedgpt_preset

NEW, END, BEAMS, HALF = 32, 2, 5, (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Shape:
    preset: str
    rows: int
    words: int  # of a source
    image_size: int | None


SHAPES = {
    "tiny-text-8": Shape("tiny", 8, 64, None),
    "base-text-1": Shape("base", 1, 128, None),
    "base-text-8": Shape("base", 8, 128, None),
    "base-image-1": Shape("base", 1, 16, 256),
    "base-image-4": Shape("base", 4, 16, 256),
}


def main() -> None:
    console, shapes = Console(width=120), chosen(SHAPES)
    console.print(f"{', '.join(shapes)}; float32; {software('jax', 'torch', 'transformers')}; {machine()}")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()  # as `biomedgpt eval` does; PyTorch has it too
    heads = "shape", "method", "ours, tokens/s", "transformers, tokens/s", "ours, sources/s", "ratio"
    table = Table(*heads)
    for name, shape in shapes.items():
        batch = batch_of(shape)
        for method, beams in (("greedy", 1), (f"beam {BEAMS}", BEAMS)):
            figures = compare(ours(shape, batch, beams), theirs(shape, batch, beams), rounds=3, warmup=1)
            speeds = (f"{shape.rows * NEW / seconds:.1f}" for seconds in (figures.ours, figures.theirs))
            table.add_row(name, method, *speeds, f"{shape.rows / figures.ours:.2f}", figures.spread)
    console.print(table)


def batch_of(shape: Shape) -> dict[str, np.ndarray]:
    rng, rows = np.random.default_rng(0), shape.rows
    batch = {
        "source_tokens": rng.integers(4, 50_000, (rows, shape.words), dtype=np.int32),
        "source_mask": np.ones((rows, shape.words), bool),
        "tokens": np.zeros((rows, 1), np.int32),
        "segment_ids": np.ones((rows, 1), np.int32),
    }
    if shape.image_size is not None:
        batch["images"] = rng.integers(0, 256, (rows, 1, shape.image_size, shape.image_size, 3), np.uint8)
    return batch


def ours(shape: Shape, batch: dict[str, np.ndarray], beams: int) -> Callable[[], np.ndarray]:
    config = biomedgpt_preset(shape.preset)
    never = Learning(dropout=0.0, drop_path=0.0, batch_norm=BatchNorm.FROZEN)
    model = make_biomedgpt(
        config, compute_dtype="float32", remat=Remat.NONE, learning=never, image_mean=HALF, image_std=HALF
    )
    params = model.ready(model.init(jax.random.key(0)))  # as `biomedgpt eval` does, once
    if beams == 1:
        limits = {"max_new_tokens": NEW, "stop_ids": (), "cache_length": 1 + NEW, "vocab_limit": config.vocab_size}
        return lambda: greedy(model, params, batch, **limits).tokens
    # One token of NEW is the end.
    limits = Limits(NEW - 1, (END,), NEW, config.vocab_size, barred=(range(1, 2),))
    search = Beams(beams, length_penalty=1.0, no_repeat=0, min_length=NEW - 1)
    return lambda: beam_search(model, params, batch, limits, search).tokens


def theirs(shape: Shape, batch: dict[str, np.ndarray], beams: int) -> Callable[[], np.ndarray]:
    config = biomedgpt_preset(shape.preset)
    torch.manual_seed(0)
    model = bart(config)
    model.eval()
    stem = None if shape.image_size is None else resnet(config).eval()
    project = torch.nn.Linear(16 * config.stem_width, config.width)
    words = torch.from_numpy(batch["source_tokens"].astype(np.int64))
    begin = torch.zeros((shape.rows, 1), dtype=torch.int64)
    limits = {"max_new_tokens": NEW, "min_new_tokens": NEW, "num_beams": beams, "do_sample": False}

    def run() -> np.ndarray:
        with torch.inference_mode():
            embedded = model.get_input_embeddings()(words)
            if stem is not None:
                pixels = torch.from_numpy(batch["images"][:, 0]).permute(0, 3, 1, 2).float() / 127.5 - 1
                patches = project(stem(pixels).feature_maps[-1].flatten(2).transpose(1, 2))
                embedded = torch.cat([patches, embedded], 1)
            source = BaseModelOutput(last_hidden_state=model.get_encoder()(inputs_embeds=embedded).last_hidden_state)
            said = model.generate(encoder_outputs=source, decoder_input_ids=begin, use_cache=True, **limits)
        assert said.shape[1] == 1 + NEW
        return said.numpy()

    return run


def bart(config: BiomedGptConfig) -> BartForConditionalGeneration:
    sizes = {
        "d_model": config.width,
        "vocab_size": config.vocab_size,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.mlp_width,
        "decoder_ffn_dim": config.mlp_width,
    }
    words = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": END, "decoder_start_token_id": 0}
    return BartForConditionalGeneration(BartConfig.from_dict({**sizes, **words, "forced_eos_token_id": None}))


def resnet(config: BiomedGptConfig) -> ResNetBackbone:
    width = config.stem_width
    sizes = {"embedding_size": width, "hidden_sizes": [4 * width, 8 * width, 16 * width]}
    kind = {"depths": list(config.stem_blocks), "layer_type": "bottleneck", "out_features": ["stage3"]}
    return ResNetBackbone(ResNetConfig.from_dict({**sizes, **kind}))


if __name__ == "__main__":
    main()
