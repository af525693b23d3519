"""`biomedgpt prepare --features`: a configuration's frozen tower over all images of its data, once.

How it is used, and when the bits are those of training from images: docs/feature_cache.md.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.data.features import Picture, write_features
from biomedgpt_jax.data.manifest import read_manifest
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.models.vision import make_encoder
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.families import family_of, training_config
from biomedgpt_jax.verbs.features import feature_key, feature_shape, refuse_trained_tower
from biomedgpt_jax.verbs.llama3_med import LLAMA3_MED
from biomedgpt_jax.verbs.model_spec import DTYPES, ModelSpec, image_transform, spec_from_config
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.starting_weights import start_tower

EXAMPLE = (
    "biomedgpt prepare --features --out=data/vqa_rad.features --config=configs/llama3_med.py:stage=1,data=data/vqa_rad"
)
TILES = 1024  # that a device encodes at a time, at most
THREADS = 4  # that decode images


def run(values: flags.FlagValues) -> None:
    config = training_config(values, EXAMPLE)
    prepare_features(config, Path(command_line.require(values, "out", EXAMPLE)))


def prepare_features(config: Config, out: Path) -> None:
    """Writes the cache of all splits of `config.data.paths` and `config.eval.paths`; goes on where it stopped.

    Raises:
        UsageError: no data, or a tower that is trained. DataError: `out` holds features of another key, or an image
            can't be read.
    """
    if family_of(config) is not LLAMA3_MED:
        raise UsageError(f"config.family = {config.family!r}: it has no tower that stays as it is. Train from images.")
    spec = spec_from_config(config)
    refuse_trained_tower(config)
    paths = list(dict.fromkeys([*config.data.paths, *config.eval.paths]))
    if not paths:
        raise UsageError("config.data.paths is empty; name prepared data, for example ...:data=data/vqa_rad")
    splits = [PreparedSplit(path, name) for path in paths for name in read_manifest(Path(path)).splits]
    mesh = make_mesh(MeshShape(**config.mesh))
    dtype, count = config.model.compute_dtype, images_at_a_time(config, spec, mesh)
    with jax.set_mesh(mesh), progress() as advance:
        tower = start_tower(config, spec, mesh, None)
        key = feature_key(spec, tower, dtype)
        features = jax.jit(make_encoder(spec.model.vision, compute_dtype=DTYPES[dtype]))
        transform = image_transform(spec)

        def load(picture: Picture) -> np.ndarray:
            split, number = picture
            return transform(split.image(number), name=f"{split.name}, image record {number}")

        def encode(pictures: Sequence[Picture]) -> Iterator[np.ndarray]:
            options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
            loaded = iter(grain.MapDataset.source(pictures).map(load).to_iter_dataset(options))
            while group := list(islice(loaded, count)):
                # One shape, so one compilation; the rest of the last group is black.
                full = np.zeros((count, *group[0].shape), np.uint8)
                full[: len(group)] = group
                yield from np.asarray(features(tower, full))[: len(group)]

        written = write_features(
            out,
            key,
            feature_shape(spec, dtype),
            splits,
            encode,
            advance,
            made_by={"device": jax.devices()[0].device_kind, "jax": jax.__version__, "images at a time": str(count)},
        )
    say = partial(make_console().print, markup=False, highlight=False)
    say(
        f"{out}: features of {written.images} images, {written.new} of them new. Train and score with them by "
        f"--config.data.features={out} (eval: --config.features={out})."
    )


def images_at_a_time(config: Config, spec: ModelSpec, mesh: Mesh) -> int:
    """As many as a step of the training has, where the devices can take them.

    The last bits of a matrix product change with its shape: at the same number of images, and laid out over the same
    mesh, features are those that the training would compute itself, bit for bit.
    """
    in_a_step = config.train.batch_rows // config.train.accumulate * config.data.image_slots
    return min(in_a_step, max(1, TILES * mesh.size // spec.model.vision.s2.tiles))
