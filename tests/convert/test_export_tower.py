"""A tower alone loads as its family's model, gives our features, and comes back bit for bit."""

import io
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from PIL import Image

from biomedgpt_jax.convert.export import export_tower_alone
from biomedgpt_jax.convert.leaves import below, cast
from biomedgpt_jax.convert.parity import verify_tower
from biomedgpt_jax.convert.reimport import reimport
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.models.parts import make_tower_encoder
from biomedgpt_jax.models.vit import Features
from tests.convert.exported import CARD, TOWERS, read_json, tiny

ARCHITECTURES = {
    "clip": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "dinov2": "Dinov2Model",
    "dinov2-registers": "Dinov2WithRegistersModel",
    "h-optimus": "vit_giant_patch14_reg4_dinov2",
}


def features(config, leaves, images):
    """As `exported_tower` names them."""
    params = from_leaf_paths({path: jnp.asarray(leaves[path]) for path in leaves})

    def encode(norm):
        return np.asarray(make_tower_encoder(config, Features(-1, final_norm=norm, keep_prefix=True))(params, images))

    if not config.pre_norm:
        return {"tower": encode(True)}
    return {"tower": encode(False), "pooled": encode(True)[:, 0]}  # CLIP


@pytest.mark.parametrize("name", TOWERS)
def test_the_tower_alone(tmp_path, name):
    config = TOWERS[name]
    leaves = below(tiny(config).leaves, "tower/")
    exported = export_tower_alone(tmp_path / "out", leaves, config, None, CARD)
    assert exported.architecture == ARCHITECTURES[name]
    images = np.random.default_rng(0).integers(0, 256, (2, config.image_size, config.image_size, 3), dtype=np.uint8)
    ours = features(config, leaves, images)
    parity = verify_tower(exported.folder, images, ours)
    assert parity.passed and 0 < parity.max_rel < 1e-5
    assert {stage.name for stage in parity.stages} == set(ours)
    assert not verify_tower(exported.folder, 255 - images, ours).passed
    back = reimport(exported.folder, leaves, config)
    assert (back.passed, back.leaves) == (True, len(leaves))
    half = export_tower_alone(tmp_path / "half", cast(leaves, "bfloat16"), config, None, CARD)
    assert reimport(half.folder, cast(leaves, "bfloat16"), config).passed


def test_the_image_processor_gives_our_pixels(tmp_path):
    config = TOWERS["clip"]
    export_tower_alone(tmp_path / "out", below(tiny(config).leaves, "tower/"), config, None, CARD)
    array = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    ours = load_square(data.getvalue(), 28, Geometry.CROP, (0, 0, 0)).astype(np.float32) / np.float32(255)
    ours = (ours - np.asarray(config.mean, np.float32)) / np.asarray(config.std, np.float32)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    theirs = processor(Image.fromarray(array), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


def test_h_optimus_is_written_for_timm(tmp_path):
    config = TOWERS["h-optimus"]
    leaves = below(tiny(config).leaves, "tower/")
    folder = export_tower_alone(tmp_path / "out", leaves, config, None, CARD).folder
    args = read_json(folder / "config.json")["model_args"]
    assert int(args["embed_dim"] * args["mlp_ratio"]) == 2 * config.hidden
    assert "library_name: timm" in (folder / "README.md").read_text()
    with pytest.raises(RunError, match=r"has \{'patch': 14, 'registers': 4, .* cannot be written alone"):
        export_tower_alone(tmp_path / "other", leaves, replace(config, eps=1e-5), None, CARD)
    assert not (tmp_path / "other").exists()
