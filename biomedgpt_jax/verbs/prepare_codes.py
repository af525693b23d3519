"""`biomedgpt prepare --codes`: the codes that a VQ-GAN gives to the middle of each prepared image, once.

Codes are kept beside the folder that is written (`OUT.codes`) as they come, so that a call that is interrupted goes on.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from biomedgpt_jax.convert.vqgan import read_vqgan
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import MESH_AXES, MeshShape, make_mesh
from biomedgpt_jax.data.features import FeatureCache, FeatureShape, Picture, write_features
from biomedgpt_jax.data.image_codes import GEOMETRY, MIDDLE, PICTURE, middle, write_code_samples
from biomedgpt_jax.data.manifest import Manifest, read_manifest
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.writer import file_sha256
from biomedgpt_jax.models.vqgan import VqganConfig, make_code_reader
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.prepare_features import THREADS
from biomedgpt_jax.verbs.progress import progress

EXAMPLE = "biomedgpt prepare --codes=downloads/vqgan_gumbel_f8/last.ckpt --data=data/chexpert --out=data/chexpert_codes"
IMAGES = 8  # that a device encodes at a time


def run(values: flags.FlagValues) -> None:
    checkpoint = Path(command_line.require(values, "codes", EXAMPLE))
    source, out = (Path(command_line.require(values, name, EXAMPLE)) for name in ("data", "out"))
    if values["config"].value is not None:
        raise UsageError("--codes reads prepared data, which --data names; leave --config out.")
    config, params = read_vqgan(checkpoint)
    _check_size(config, checkpoint)
    splits = [PreparedSplit(source, name) for name in read_manifest(source).splits]
    cache, shape = out.with_name(f"{out.name}.codes"), FeatureShape((MIDDLE // config.stride) ** 2, 1, "int32")
    key = {"vqgan": file_sha256(checkpoint), "picture": PICTURE, "middle": MIDDLE, "geometry": GEOMETRY.value}
    mesh = make_mesh(MeshShape(data=1, fsdp=-1, tensor=1, context=1))
    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(MESH_AXES))
    compiled = jax.jit(make_code_reader(config), in_shardings=(whole, rows), out_shardings=whole)
    with progress() as advance:
        written = write_features(
            cache,
            key,
            shape,
            splits,
            lambda pictures: _codes(pictures, partial(compiled, jax.device_put(params, whole)), IMAGES * mesh.size),
            lambda what, done, total: advance("codes" if what == "features" else what, done, total),
            made_by={"device": jax.devices()[0].device_kind, "jax": jax.__version__},
        )
        reader = FeatureCache(cache).reader(splits)
        manifest = write_code_samples(source, out, reader.read, command=" ".join(sys.argv[1:]), progress=advance)
    make_console().print(_said(manifest, out, written.new), markup=False, highlight=False, soft_wrap=True)


def _codes(pictures: Sequence[Picture], compiled, count: int) -> Iterator[np.ndarray]:
    def load(picture: Picture) -> np.ndarray:
        split, number = picture
        return middle(split.image(number), f"{split.name}, image record {number}")

    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    loaded = iter(grain.MapDataset.source(pictures).map(load).to_iter_dataset(options))
    while group := list(islice(loaded, count)):
        # One shape, so one compilation; the rest of the last group is black.
        full = np.zeros((count, *group[0].shape), np.uint8)
        full[: len(group)] = group
        yield from np.asarray(compiled(full))[: len(group), :, None]


def _check_size(config: VqganConfig, checkpoint: Path) -> None:
    if MIDDLE % config.stride:
        raise UsageError(
            f"--codes={checkpoint}: a code stands for {config.stride} pixels, which do not divide {MIDDLE}."
        )


def _said(manifest: Manifest, out: Path, new: int) -> str:
    images = sum(split.images for split in manifest.splits.values())
    return (
        f"{out}: codes of {images} images, {new} of them new. They are learnt from as samples of the task image_codes."
    )
