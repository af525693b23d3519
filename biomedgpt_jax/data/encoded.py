"""A whole split as token ids: encoded once, kept on disk under a hash of all that decides it, then read at random.

Every sample is checked before training starts, lengths are known for packing, and workers never tokenise.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from biomedgpt_jax.data.errors import DataError, UnusableSamples
from biomedgpt_jax.data.kept_folder import make_once
from biomedgpt_jax.data.prompts import Template
from biomedgpt_jax.data.source import PreparedSplit, Sample
from biomedgpt_jax.data.tasks import Encoded, encode_sample
from biomedgpt_jax.data.tokenizers import Tokenizer, fingerprint

VERSION = 1  # raise it when the same inputs would encode to other ids
CHUNK = 1024  # samples read at once
Progress = Callable[[int, int], None]  # (samples done, samples in all)
ARRAYS = ("numbers", "ids", "supervised", "starts", "images", "image_starts")


@dataclass(frozen=True)
class Rejected:
    """A sample that breaks a rule and so was left out."""

    number: int
    reason: str


def rejected_for(number: int, sample: Sample, error: DataError) -> Rejected:
    """With a reason that names the sample."""
    reason = str(error)
    return Rejected(number, reason if sample.name in reason else f"sample {sample.name}: {reason}")


class EncodedSplit:
    """`encoded[i]` is the i-th usable sample of `split`; `numbers[i]` its number there."""

    def __init__(self, split: PreparedSplit, folder: Path):
        self.split = split
        self.folder = folder
        self._open()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Encoded:
        span = slice(*self.starts[index : index + 2])
        images = self.images[slice(*self.image_starts[index : index + 2])]
        sample_id = f"{self.split.name} #{self.numbers[index]}"
        return Encoded(sample_id, self.ids[span], self.supervised[span], tuple(images.tolist()))

    def sample_id(self, index: int) -> str:
        """What the data set calls the i-th usable sample."""
        return self.split[int(self.numbers[index])].name

    def image_counts(self) -> np.ndarray:
        """Images per usable sample, int64 [n]."""
        return np.diff(self.image_starts)

    def lengths(self, tokens_per_image: int) -> np.ndarray:
        """Row tokens per usable sample, int64 [n]."""
        return np.diff(self.starts) + self.image_counts() * (tokens_per_image - 1)

    def _open(self) -> None:
        arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        self.numbers, self.ids, self.supervised = arrays["numbers"], arrays["ids"], arrays["supervised"]
        self.starts, self.images, self.image_starts = arrays["starts"], arrays["images"], arrays["image_starts"]
        self.rejected = tuple(Rejected(**r) for r in json.loads((self.folder / "rejected.json").read_text()))

    def __reduce__(self) -> tuple:
        return EncodedSplit, (self.split, self.folder)


def encode_split(
    split: PreparedSplit,
    template: Template,
    tokenizer: Tokenizer,
    cache_dir: str | Path,
    skip_rejected: bool = False,
    progress: Progress | None = None,
) -> EncodedSplit:
    """Encodes the split, or opens what an earlier call left in `cache_dir`.

    Samples that break a rule are a DataError naming the first ones, or with `skip_rejected` are left out and listed
    in `.rejected`.
    """
    folder = Path(cache_dir) / _key(split, template, tokenizer)
    make_once(folder, lambda part: _write(part, split, template, tokenizer, progress))
    encoded = EncodedSplit(split, folder)
    check_rejected(split, encoded.rejected, len(encoded), skip_rejected)
    return encoded


def check_rejected(split: PreparedSplit, rejected: Sequence[Rejected], usable: int, skip: bool) -> None:
    """UnusableSamples naming the first rejected ones, unless they may be skipped; DataError if nothing else is left."""
    if rejected and not skip:
        shown = "; ".join(each.reason for each in rejected[:3])
        raise UnusableSamples(
            f"{split.name}: {len(rejected)} of {len(split)} samples can't be used: {shown}. "
            "Repair them, or set on_overflow to 'skip' (they are counted and named)",
            named(split, rejected),
        )
    if not usable:
        raise DataError(f"{split.name} holds no usable sample ({len(split)} in all)")


def named(split: PreparedSplit, rejected: Sequence[Rejected]) -> list[tuple[str, str]]:
    """'folder:split id' and reason of each."""
    samples = split.samples([each.number for each in rejected])
    return [(f"{split.name} {sample.name}", each.reason) for sample, each in zip(samples, rejected, strict=True)]


def _key(split: PreparedSplit, template: Template, tokenizer: Tokenizer) -> str:
    files = [(f.path, f.sha256) for f in split.manifest.splits[split.split].files]
    parts = (VERSION, files, template, fingerprint(tokenizer))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _write(
    part: Path, split: PreparedSplit, template: Template, tokenizer: Tokenizer, progress: Progress | None
) -> None:
    rejected: list[Rejected] = []
    chunks = [_arrays([], [])]
    for start in range(0, len(split), CHUNK):
        chunk = range(start, min(start + CHUNK, len(split)))
        chunks.append(_encode_chunk(split, chunk, template, tokenizer, rejected))
        if progress:
            progress(chunk.stop, len(split))
    joined = {name: np.concatenate([arrays[name] for arrays in chunks]) for name in chunks[0]}
    for name in ("starts", "image_starts"):
        joined[name] = np.concatenate([[0], np.cumsum(joined[name])]).astype(np.int64)
    for name, array in joined.items():
        np.save(part / f"{name}.npy", array)
    (part / "rejected.json").write_text(json.dumps([asdict(r) for r in rejected]))


def _encode_chunk(
    split: PreparedSplit, chunk: range, template: Template, tokenizer: Tokenizer, rejected: list[Rejected]
) -> dict[str, np.ndarray]:
    samples: list[Encoded] = []
    numbers: list[int] = []
    for number, sample in zip(chunk, split.samples(chunk), strict=True):
        try:
            samples.append(encode_sample(sample, template, tokenizer))
            numbers.append(number)
        except DataError as error:
            rejected.append(rejected_for(number, sample, error))
    return _arrays(numbers, samples)


def _arrays(numbers: list[int], samples: list[Encoded]) -> dict[str, np.ndarray]:
    """The arrays of some samples; `starts` and `image_starts` are still sizes."""
    return {
        "numbers": np.array(numbers, np.int64),
        "ids": np.concatenate([np.zeros(0, np.int32), *(s.ids for s in samples)]),
        "supervised": np.concatenate([np.zeros(0, bool), *(s.supervised for s in samples)]),
        "starts": np.array([len(s.ids) for s in samples], np.int64),
        "images": np.array([n for s in samples for n in s.images], np.int64),
        "image_starts": np.array([len(s.images) for s in samples], np.int64),
    }
