"""The same training in PyTorch and transformers: the first steps of a run, from its start and with its batches.

    python benchmarks/vqa_rad_small/torch_training.py --first=first_steps.npz --decoder=weights/published/decoder \
        --out=loss_curves.json --plot=loss.png

Nothing of the package is imported. The decoder is transformers' LlamaForCausalLM, the connector torch modules, the
adapters a few lines of torch; AdamW, clipping and the schedule are those of the libraries. Exit code 1 when a loss
differs from the run's by more than TOLERANCE.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, get_cosine_schedule_with_warmup

TOLERANCE = 1e-3
MODULES = {
    "attention/q": "self_attn.q_proj",
    "attention/k": "self_attn.k_proj",
    "attention/v": "self_attn.v_proj",
    "attention/out": "self_attn.o_proj",
    "mlp/gate": "mlp.gate_proj",
    "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj",
}


class Adapted(nn.Module):
    """x -> base(x) + alpha / r * (x a) b, with the base frozen."""

    def __init__(self, base: nn.Linear, a: np.ndarray, b: np.ndarray, scale: float):
        super().__init__()
        self.base, self.scale = base, scale
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.a) @ self.b


class SmallLlava(nn.Module):
    """Features of the tower -> MLP -> their places among the embeddings -> Llama."""

    def __init__(self, decoder: LlamaForCausalLM, trainable: dict[str, np.ndarray], lora: dict[str, Any]):
        super().__init__()
        self.decoder = decoder.requires_grad_(False)
        first, second = (_linear(trainable, f"connector/linears/{number}") for number in (0, 1))
        self.connector = nn.Sequential(first, nn.GELU(), second)
        for ours, theirs in MODULES.items():
            path = f"decoder/layers/{ours}/kernel_lora"
            if f"{path}_a" not in trainable:
                continue  # stage 1 has no adapters
            for layer, block in enumerate(decoder.model.layers):
                parent, name = theirs.split(".")
                owner = getattr(block, parent)
                a, b = trainable[f"{path}_a"][layer], trainable[f"{path}_b"][layer]
                setattr(owner, name, Adapted(getattr(owner, name), a, b, lora["alpha"] / lora["rank"]))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the supervised positions."""
        x = self.decoder.get_input_embeddings()(batch["tokens"])
        features = self.connector(batch["features"]).flatten(1, 2)
        index = batch["image_index"]
        taken = features.gather(1, index.clamp(min=0)[..., None].expand(*index.shape, features.shape[-1]))
        x = torch.where((index >= 0)[..., None], taken, x)
        hidden = self.decoder.model(
            inputs_embeds=x, attention_mask=_mask(batch["segment_ids"]), position_ids=batch["positions"]
        ).last_hidden_state
        supervised = batch["loss_weights"] > 0
        return nn.functional.cross_entropy(self.decoder.lm_head(hidden[supervised]), batch["targets"][supervised])


def main() -> int:
    arguments = _arguments()
    stored = np.load(arguments.first)
    facts = json.loads(str(stored["facts"]))
    trainable = {name.removeprefix("trainable/"): stored[name] for name in stored.files if name.startswith("trainable")}
    noise = np.random.default_rng(0)
    for name, array in trainable.items() if arguments.perturb else ():
        trainable[name] = (array * (1 + arguments.perturb * noise.standard_normal(array.shape))).astype(array.dtype)
    decoder = LlamaForCausalLM.from_pretrained(arguments.decoder, dtype=torch.float32, attn_implementation="sdpa")
    model = SmallLlava(decoder, trainable, facts["lora"])
    steps = min(arguments.steps, len(facts["losses"]))
    begun = time.perf_counter()
    theirs = train(model, facts["optim"], facts["total_steps"], (_batch(stored, step) for step in range(steps)))
    ours = facts["losses"][:steps]
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    result = {
        "steps": steps,
        "largest_difference": max(differences),
        "mean_difference": sum(differences) / steps,
        "seconds": time.perf_counter() - begun,
        "biomedgpt_jax": ours,
        "torch": theirs,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot:
        plot(ours, theirs, arguments.plot)
    print(f"{steps} steps: losses differ by at most {max(differences):.2g}; tolerance {TOLERANCE}")
    return 0 if max(differences) <= TOLERANCE else 1


def train(model: SmallLlava, optim: dict[str, Any], total_steps: int, batches: Any) -> list[float]:
    """The loss before each update."""
    peaks = {prefix.split("/")[0]: rate for prefix, rate in optim["group_rates"].items()}
    groups = [
        {"params": [p for p in part.parameters() if p.requires_grad], "lr": peaks.get(name, optim["learning_rate"])}
        for name, part in (("connector", model.connector), ("decoder", model.decoder))
    ]
    groups = [group for group in groups if group["params"]]
    betas, decay = (optim["b1"], optim["b2"]), optim["weight_decay"]
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=optim["eps"], weight_decay=decay)
    warmup = math.ceil(total_steps * optim["warmup_ratio"])
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, total_steps)
    parameters, losses = [p for group in groups for p in group["params"]], []
    for number, batch in enumerate(batches, start=1):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, optim["clip_norm"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        print(f"step {number}: loss {losses[-1]:.6f}", flush=True)
    return losses


def plot(ours: list[float], theirs: list[float], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = range(1, len(ours) + 1)
    axes.plot(steps, theirs, color="0.6", linewidth=4, label="PyTorch and transformers")
    axes.plot(steps, ours, color="tab:red", linewidth=1.2, label="biomedgpt_jax")
    axes.set(xlabel="step", ylabel="loss", title="Stage 2 on VQA-RAD: the same start, the same batches, float32")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=110)


def _linear(trainable: dict[str, np.ndarray], path: str) -> nn.Linear:
    kernel = torch.tensor(trainable[f"{path}/kernel"])
    linear = nn.Linear(*kernel.shape)
    linear.load_state_dict({"weight": kernel.T.contiguous(), "bias": torch.tensor(trainable[f"{path}/bias"])})
    return linear


def _mask(segments: Tensor) -> Tensor:
    """Segment ids [b s] -> True [b 1 s s] where a position may look: back, and within its own sample."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same & torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()


def _batch(stored: Any, step: int) -> dict[str, Tensor]:
    prefix = f"batch/{step}/"
    arrays = {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}
    return {
        name: torch.from_numpy(array).long() if array.dtype == np.int32 else torch.from_numpy(array)
        for name, array in arrays.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, required=True, help="what first_steps.py wrote")
    parser.add_argument("--decoder", type=Path, required=True, help="the published folder of the decoder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--perturb", type=float, default=0.0, help="share by which the start is moved: how rounding grows"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
