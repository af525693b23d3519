"""Our greedy decoding against `generate` of transformers: python benchmarks/decode.py [shape ...]

Both have the same weights and prompts (an image, then text), float32, a KV cache, and make a fixed number of tokens;
the tokens are compared before anything is timed. Compile time is not counted: the figures are of later calls.
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
from twins import SMALL_DECODER, TINY_DECODER, batch_of, in_transformers, small_llava, torch_inputs

from biomedgpt_jax.core.types import Params
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, make_llama3_med

PROMPT, NEW = 128, 64


@dataclass(frozen=True)
class Shape:
    decoder: LlamaConfig
    rows: int


SHAPES = {
    "tiny-1": Shape(TINY_DECODER, 1),
    "tiny-8": Shape(TINY_DECODER, 8),
    "small-1": Shape(SMALL_DECODER, 1),
    "small-8": Shape(SMALL_DECODER, 8),
}


def main() -> None:
    console, shapes = Console(), chosen(SHAPES)
    console.print(f"{', '.join(shapes)}; float32; {software('jax', 'torch', 'transformers')}; {machine()}")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table = Table("shape", "rows", "ours, tokens/s", "transformers, tokens/s", "ratio", "same tokens")
    for name, shape in shapes.items():
        config = small_llava(shape.decoder)
        model = make_llama3_med(config, compute_dtype="float32", remat=NO_REMAT, lora=None)
        params = model.init(jax.random.key(0))
        ready = model.ready(params)  # as `biomedgpt eval` does, once
        batch = batch_of(config, shape.rows, PROMPT, seed=1)

        def ours(model=model, params=ready, batch=batch) -> np.ndarray:
            limits = {"max_new_tokens": NEW, "stop_ids": (), "cache_length": PROMPT + NEW}
            return greedy(model, params, batch, **limits).tokens

        theirs = torch_greedy(config, params, batch)
        same = np.mean(ours() == theirs())
        figures = compare(ours, theirs, rounds=5, warmup=0)
        speeds = (f"{shape.rows * NEW / seconds:.0f}" for seconds in (figures.ours, figures.theirs))
        table.add_row(name, f"{shape.rows}", *speeds, figures.spread, f"{same:.1%}")
    console.print(table)


def torch_greedy(config: Llama3MedConfig, params: Params, batch: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    model = in_transformers(config, params).eval()
    inputs = torch_inputs(config, batch)
    del inputs["labels"]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    limits = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None}

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model.generate(**inputs, **limits, use_cache=True)[:, PROMPT:].numpy()

    return run


if __name__ == "__main__":
    main()
