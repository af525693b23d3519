"""A tiny H-optimus-0 as `biomedgpt export` writes it, opened by timm: pip install timm, python benchmarks/timm_tower.py

timm is no dependency of ours, so this is a command and no test. It fails where a key is missing or left over, or where
features are further apart than 1e-5 of the largest.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import timm
import torch
from rich.console import Console

from biomedgpt_jax.convert.card import Card
from biomedgpt_jax.convert.export import export_tower_alone
from biomedgpt_jax.convert.leaves import in_memory
from biomedgpt_jax.convert.shapes import part_shapes
from biomedgpt_jax.core.partition import from_leaf_paths
from biomedgpt_jax.models.parts import make_tower_encoder
from biomedgpt_jax.models.towers import h_optimus
from biomedgpt_jax.models.vit import Features

TOWER = h_optimus(image_size=56, width=48, depth=3, heads=3, hidden=80)


def main() -> None:
    rng = np.random.default_rng(0)
    shapes = part_shapes(TOWER)
    params = from_leaf_paths(
        {path: rng.standard_normal(shape).astype(np.float32) * 0.3 for path, shape in shapes.items()}
    )
    card = Card(title="Tiny tower", licence="unknown", origins=(), scores=(), notes=())
    images = rng.integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = export_tower_alone(Path(name) / "tower", in_memory(params), TOWER, None, card).folder
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = (images / np.float32(255) - np.asarray(TOWER.mean, np.float32)) / np.asarray(TOWER.std, np.float32)
    with torch.no_grad():
        theirs = model.forward_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).numpy()
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(
            make_tower_encoder(TOWER, Features(-1, final_norm=True, keep_prefix=True))(params, jnp.asarray(images))
        )
    largest = np.abs(ours).max()
    apart = np.abs(theirs - ours).max() / largest
    assert apart < 1e-5, apart
    settings = {key: model.pretrained_cfg[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation")}
    Console().print(f"timm {timm.__version__}: {len(model.state_dict())} tensors, {len(shapes)} of ours")
    Console().print(f"features {theirs.shape} differ by {apart:.1e} of the largest; {settings}")


if __name__ == "__main__":
    main()
