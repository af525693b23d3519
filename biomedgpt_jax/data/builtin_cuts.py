"""How one source file of the built-in set becomes several pictures: slices, frames, windows, tiles."""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from biomedgpt_jax.data import dicom
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import decode_rgb

LONGEST = 512
TILE = 256
PLANES = ("sagittal", "coronal", "axial")  # by the axis of a volume turned to right, anterior, superior


@dataclass(frozen=True)
class Picture:
    """`rgb` uint8 [h w 3]; `plane` when it is known from the file's geometry or description."""

    rgb: np.ndarray
    plane: str | None = None


Cut = Callable[[bytes, str], list[Picture]]


def windows(grid: int, plane: str | None = None, shown: tuple[float, float] | None = None) -> Cut:
    """The whole picture, and grid x grid windows of 3/4 of its sides (0: the whole picture only).

    `shown`: centre and width of the grey levels shown, for a DICOM file whose header states none.
    """

    def cut(data: bytes, name: str) -> list[Picture]:
        if shown:
            whole = _shrink(dicom.decode(data, name, window=shown))
        else:
            whole = _shrink(decode_rgb(data, (255, 255, 255), name))
        height, width = (3 * side // 4 for side in whole.shape[:2])
        tops = np.linspace(0, whole.shape[0] - height, grid).astype(int)
        lefts = np.linspace(0, whole.shape[1] - width, grid).astype(int)
        parts = [whole[top : top + height, left : left + width] for top in tops for left in lefts]
        return [Picture(rgb, plane) for rgb in [whole, *parts]]

    return cut


def frames(count: int) -> Cut:
    """`count` frames of a DICOM file, spread evenly over its length."""

    def cut(data: bytes, name: str) -> list[Picture]:
        numbers = np.linspace(0, dicom.frame_count(data, name) - 1, count).astype(int)
        return [Picture(_shrink(dicom.decode(data, name, int(number)))) for number in numbers]

    return cut


def tiles(count: int, size: int = TILE, stretch: bool = False) -> Cut:
    """`count` square tiles that show something (spread of grey levels), spread evenly over the picture.

    `stretch`: each tile's own range becomes black to white, as a microscope's display does.
    """

    def cut(data: bytes, name: str) -> list[Picture]:
        whole = decode_rgb(data, (255, 255, 255), name)
        tops = range(0, whole.shape[0] - size + 1, size // 2)
        lefts = range(0, whole.shape[1] - size + 1, size // 2)
        found = [whole[top : top + size, left : left + size] for top in tops for left in lefts]
        spread = np.array([tile.std() for tile in found])
        full = [tile for tile, value in zip(found, spread, strict=True) if value >= np.median(spread)]
        chosen = [full[i] for i in np.linspace(0, len(full) - 1, min(count, len(full))).astype(int)]
        return [Picture(_grey_rgb(tile[..., 0], float(tile.max())) if stretch else tile) for tile in chosen]

    return cut


def slices(**counts: int) -> Cut:
    """Slices of a NIfTI volume between 30 % and 70 % of each axis: `slices(axial=12, coronal=4)`.

    Planes follow the file's affine; voxels are made square; the volume's 99.5th percentile is white.
    """

    def cut(data: bytes, name: str) -> list[Picture]:
        volume, zooms = _volume(data, name)
        high = float(np.percentile(volume, 99.5)) or 1.0
        pictures = []
        for plane, count in counts.items():
            axis = PLANES.index(plane)
            for position in np.linspace(0.3, 0.7, count):
                picture = np.take(volume, int(position * (volume.shape[axis] - 1)), axis)
                step = [zoom for number, zoom in enumerate(zooms) if number != axis]
                pictures.append(Picture(_slice_rgb(picture, step, high), plane))
        return pictures

    return cut


def array(plane: str) -> Cut:
    """A picture that is a plain NumPy array of grey levels."""

    def cut(data: bytes, name: str) -> list[Picture]:
        values = np.load(io.BytesIO(data), allow_pickle=False)
        return [Picture(_grey_rgb(values, float(np.percentile(values, 99.5)) or 1.0), plane)]

    return cut


def _volume(data: bytes, name: str) -> tuple[np.ndarray, tuple[float, ...]]:
    """The first volume, turned so that its axes run to right, anterior and superior."""
    try:
        import nibabel
    except ImportError as reason:
        raise DataError(f"{name}: NIfTI needs nibabel: pip install 'biomedgpt-jax[medical]'") from reason
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(raw))
    values = np.asarray(image.dataobj, np.float32)
    values = values[..., 0] if values.ndim == 4 else values
    return values, tuple(float(zoom) for zoom in image.header.get_zooms()[:3])


def _slice_rgb(picture: np.ndarray, step: list[float], high: float) -> np.ndarray:
    """[first axis, second axis] -> upright RGB with square pixels (the second axis points up)."""
    rgb = _grey_rgb(np.rot90(picture), high)
    size = [round(side * zoom / min(step)) for side, zoom in zip(picture.shape, step, strict=True)]
    return np.asarray(Image.fromarray(rgb).resize((size[0], size[1]), Image.Resampling.BICUBIC))


def _grey_rgb(values: np.ndarray, high: float) -> np.ndarray:
    low = float(values.min())
    shown = np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0, 255)
    return np.repeat(np.rint(shown).astype(np.uint8)[..., None], 3, axis=-1)


def _shrink(rgb: np.ndarray) -> np.ndarray:
    """At most LONGEST pixels on the long side."""
    image = Image.fromarray(rgb)
    scale = LONGEST / max(image.size)
    if scale >= 1:
        return rgb
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
