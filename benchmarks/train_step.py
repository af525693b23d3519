"""Our train step against the same one in transformers and PyTorch: python benchmarks/train_step.py [shape ...]

Both have the same weights, batch, AdamW and clipping in float32; the losses of the first steps are compared before
anything is timed. Ours is the step that `biomedgpt train` runs, metrics included. Compile time is not counted.
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

from biomedgpt_jax.core.host_memory import keep_freed_memory
from biomedgpt_jax.core.lora import BaseWeights, Lora
from biomedgpt_jax.core.partition import split
from biomedgpt_jax.core.placing import place_batch
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models.llama import ALL_LINEARS, LlamaConfig
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, Tune, add_lora, make_llama3_med, trainable
from biomedgpt_jax.train.objectives import all_words
from biomedgpt_jax.train.optim import Decay, OptimConfig, make_optimizer
from biomedgpt_jax.train.state import abstract_state, first_state
from biomedgpt_jax.train.step import StepSettings, compile_step, make_train_step

RANK, ALPHA = 16, 32.0
LORA = Lora(rank=RANK, alpha=ALPHA, targets=ALL_LINEARS, base=BaseWeights.FLOAT, tile=None)
RATE, CLIP = 1e-4, 1.0


@dataclass(frozen=True)
class Shape:
    decoder: LlamaConfig
    tune: Tune  # of the decoder; the connector is always trained, the tower where the decoder is in full
    rows: int
    tokens: int


SHAPES = {
    "tiny": Shape(TINY_DECODER, Tune.FULL, 8, 256),
    "tiny-long": Shape(TINY_DECODER, Tune.FULL, 4, 512),
    "tiny-lora": Shape(TINY_DECODER, Tune.LORA, 8, 256),
    "tiny-stage1": Shape(TINY_DECODER, Tune.FROZEN, 8, 256),
    "small-lora": Shape(SMALL_DECODER, Tune.LORA, 8, 256),
    "small-stage1": Shape(SMALL_DECODER, Tune.FROZEN, 8, 256),
}


def main() -> None:
    console, shapes = Console(), chosen(SHAPES)
    keep_freed_memory()  # as `biomedgpt train` does; PyTorch has it too
    console.print(f"{', '.join(shapes)}; float32; {software('jax', 'torch', 'transformers')}; {machine()}")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table = Table("shape", "rows x tokens", "ours, ms", "PyTorch, ms", "ratio", "loss differs by")
    for name, shape in shapes.items():
        config = small_llava(shape.decoder)
        params = make_llama3_med(config, compute_dtype="float32", remat=NO_REMAT, lora=None).init(jax.random.key(0))
        batch = batch_of(config, shape.rows, shape.tokens, seed=1)
        ours, theirs = our_step(shape, config, params, batch), torch_step(shape, config, params, batch)
        off = max(abs(ours() - theirs()) for _ in range(2))
        figures = compare(ours, theirs, rounds=5, calls=3 if shape.decoder is TINY_DECODER else 1)
        times = f"{figures.ours * 1e3:.0f}", f"{figures.theirs * 1e3:.0f}"
        table.add_row(name, f"{shape.rows} x {shape.tokens}", *times, figures.spread, f"{off:.0e}")
    console.print(table)


def our_step(
    shape: Shape, config: Llama3MedConfig, params: Params, batch: dict[str, np.ndarray]
) -> Callable[[], float]:
    """A step at each call; returns its loss."""
    lora = LORA if shape.tune is Tune.LORA else None
    model = make_llama3_med(config, compute_dtype="float32", remat=NO_REMAT, lora=lora)
    if lora is not None:
        params = add_lora(config, lora, params, jax.random.key(1))
    mesh = make_mesh(MeshShape(data=1, fsdp=1, tensor=1, context=1), jax.devices()[:1])
    chosen = trainable(config, tower=shape.tune is Tune.FULL, connector=True, decoder=shape.tune)
    axes, _ = split(model.axes(), chosen)
    optimizer = make_optimizer(
        OptimConfig(
            *(RATE, {}, 10**6, 0.0, Decay.COSINE),
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            decay_vectors=False,
            clip_norm=CLIP,
        ),
        axes,
    )
    abstract = abstract_state(model, optimizer, chosen, mesh=mesh, frozen_dtype="float32")
    settings = StepSettings(
        micro_batches=1,
        objective=all_words(chunk_size=512, label_smoothing=0.0, z_loss=0.0, vocab_size=None),
        tokens_per_image=1,
        seed=0,
        average_decay=0.0,
    )
    step = compile_step(make_train_step(model, optimizer, settings), abstract, mesh)
    held = [first_state(abstract, optimizer, params)]

    def once() -> float:
        with jax.set_mesh(mesh):
            held[0], metrics = step(held[0], place_batch(batch, mesh))
        return float(metrics["loss"])

    return once


def torch_step(
    shape: Shape, config: Llama3MedConfig, params: Params, batch: dict[str, np.ndarray]
) -> Callable[[], float]:
    """The same in the way of transformers' Trainer: SDPA attention, fused AdamW, gradients set to None."""
    model = in_transformers(config, params).train()
    chosen = {
        Tune.FULL: lambda name: True,
        Tune.LORA: lambda name: "multi_modal_projector" in name,
        Tune.FROZEN: lambda name: "multi_modal_projector" in name,
    }[shape.tune]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen(name))
    if shape.tune is Tune.LORA:
        for layer in model.model.language_model.layers:
            for block in (layer.self_attn, layer.mlp):
                for name, linear in list(block.named_children()):
                    if isinstance(linear, torch.nn.Linear):
                        setattr(block, name, LoraLinear(linear))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    inputs = torch_inputs(config, batch)

    def once() -> float:
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return once


class LoraLinear(torch.nn.Module):
    """y = W x + alpha / rank * B A x, as peft computes it."""

    def __init__(self, base: torch.nn.Linear):
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(torch.empty(RANK, base.in_features).uniform_(-1, 1) / base.in_features**0.5)
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + torch.nn.functional.linear(torch.nn.functional.linear(x, self.a), self.b) * (ALPHA / RANK)


if __name__ == "__main__":
    main()
