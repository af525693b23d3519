"""Raw files in a provider's layout, and `biomedgpt prepare` on them."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from biomedgpt_jax.data.manifest import Manifest, read_manifest
from biomedgpt_jax.data.source import PreparedSplit, Sample
from tests.command import biomedgpt, config


@dataclass(frozen=True)
class Prepared:
    """What `biomedgpt prepare` made: samples by split, by id, and why rows were skipped."""

    folder: Path
    splits: dict[str, list[Sample]]
    manifest: Manifest

    @property
    def by_id(self) -> dict[str, Sample]:
        return {sample.id: sample for samples in self.splits.values() for sample in samples}

    @property
    def skipped(self) -> list[str]:
        return [row.reason for row in self.manifest.skipped]

    def cases(self, split: str) -> set[str]:
        return {sample.meta["case"] for sample in self.splits[split]}


def prepare(name: str, raw: Path, out: Path, *options: str) -> Prepared:
    """Through the command line, with broken rows and other sizes allowed."""
    called = biomedgpt(
        "prepare",
        config(f"data/dataset.py:name={name}"),
        f"--config.source={raw}",
        "--config.workers=1",
        "--config.max_bad_share=0.9",
        "--config.allow_other_sizes=True",
        f"--out={out}",
        *options,
    )
    assert called.code == 0, called.err
    manifest = read_manifest(out)
    splits = {}
    for split in manifest.splits:
        found = PreparedSplit(out, split)
        splits[split] = [found[n] for n in range(len(found))]
    return Prepared(out, splits, manifest)


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def comma_separated(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return out.getvalue()


def picture(level: int, kind: str = "PNG") -> bytes:
    """8x6, of one grey level."""
    out = io.BytesIO()
    Image.new("L", (8, 6), level).save(out, kind)
    return out.getvalue()


def dicom(level: int, side: int = 4, **header: str) -> bytes:
    """A grey 8-bit DICOM file with more fields of its header."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.SOPInstanceUID = generate_uid(entropy_srcs=[str(level)])
    for field, value in header.items():
        setattr(data, field, value)
    data.Rows = data.Columns = side
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    pixels = np.full((side, side), level, np.uint8)
    # The window is the picture's own range: only a pattern tells two levels apart.
    pixels.flat[:9] = [0, *(level if level >> bit & 1 else 0 for bit in range(8))]
    data.PixelData = pixels.tobytes()
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()
