"""`biomedgpt prepare --codes`: images to samples whose answers are the codes that torch gives too."""

import json

import numpy as np
import pytest
import torch

from biomedgpt_jax.data.image_codes import middle
from biomedgpt_jax.data.source import PreparedSplit
from tests.command import assert_refused, biomedgpt
from tests.models.torch_vqgan import random_vqgan

SIZES = {"channels": 32, "multipliers": (1, 1, 1, 2), "attention": (False, False, False, True), "blocks": 1}


@pytest.fixture(scope="module")
def theirs():
    return random_vqgan(5, latent=12, width=8, codes=60, **SIZES)


def test_each_image_gets_the_codes_of_its_middle(theirs, prepared_data, tmp_path):
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "last.ckpt")
    arguments = (f"--codes={tmp_path / 'last.ckpt'}", f"--data={prepared_data}", f"--out={tmp_path / 'codes'}")
    called = biomedgpt("prepare", *arguments)
    assert called.code == 0, called.err
    assert "codes of 6 images, 6 of them new" in called.out and "codes: 6/6" in called.err

    split, before = PreparedSplit(tmp_path / "codes", "train"), PreparedSplit(prepared_data, "train")
    assert len(split) == split.num_images == before.num_images == 4
    sample = split[2]
    assert sample.meta["task"] == "image_codes" and sample.images == (2,)
    codes = np.array(sample.turns[0].answer.split(), int)
    part = middle(before.image(2), "image")
    with torch.no_grad():
        logits = theirs(torch.tensor(part[None]).permute(0, 3, 1, 2) / 127.5 - 1)[0].flatten(1)  # codes places
    assert (logits.max(0).values - logits[codes, np.arange(256)] < 1e-4).all()
    assert codes.shape == (256,) and len(set(codes.tolist())) > 5
    assert json.loads((tmp_path / "codes" / "manifest.json").read_text())["name"].endswith("_codes")
    assert_refused(biomedgpt("prepare", *arguments), 1, "is not empty")


def test_the_middle_is_cut_from_the_picture_at_256(tmp_path):
    from PIL import Image

    picture = np.zeros((512, 1024, 3), np.uint8)
    picture[128:384, 256:768] = 255  # the middle of each side
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = middle((tmp_path / "a.png").read_bytes(), "a")
    assert found.shape == (128, 128, 3) and found[4:-4, 4:-4].min() > 250
