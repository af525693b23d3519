"""PyTorch weight files (`checkpoint.pth`, `pytorch_model.bin`) as tensors by name."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.torch_archive import StoredTensor, TorchArchive


class ArchiveTensors(Tensors):
    """Key -> array over one of the state dicts in an archive; each lookup reads one tensor from the disk."""

    def __init__(self, archive: TorchArchive, tensors: Mapping[str, StoredTensor]):
        self.files = (archive.file,)
        self._archive, self._tensors = archive, tensors

    def __getitem__(self, key: str) -> np.ndarray:
        return self._archive.read(key, self._tensors[key])

    def shape(self, key: str) -> tuple[int, ...]:
        return self._tensors[key].shape

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors


class TorchFile(ArchiveTensors):
    """A state dict saved by `torch.save`.

    Raises:
        RunError: not such a file, cut off, or with anything in it but a flat dict of tensors.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        archive = TorchArchive(self.path)
        super().__init__(archive, archive.state_dict(archive.content, "the file"))
