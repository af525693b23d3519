"""The pairs of a whole split as token ids, made once and kept on disk under a hash of all that decides them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.encoded import CHUNK, Progress, Rejected, check_rejected, rejected_for
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.kept_folder import make_once
from biomedgpt_jax.data.pair_encoding import EncodedPair, TokenLimits, encode_pairs
from biomedgpt_jax.data.pair_tasks import PairRules
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import Overflow
from biomedgpt_jax.data.tokenizers import fingerprint

VERSION = 1  # raise it when the same inputs would encode to other ids
ARRAYS = ("numbers", "turns", "ids", "starts", "images", "weights", "shortened", "hinted")


@runtime_checkable
class Pairs(Protocol):
    """Pairs at random access. Whatever is drawn for a pair comes from the generator that is handed in."""

    @property
    def split(self) -> PreparedSplit: ...

    @property
    def key(self) -> str:
        """A hash of all that decides the pairs."""
        ...

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str: ...

    def pair(self, index: int, rng: np.random.Generator) -> EncodedPair: ...

    def lengths(self) -> np.ndarray:
        """Of each pair, int64 [n 3]: most tokens of the source, of the decoder, and tokens that are learned."""
        ...

    def kinds(self) -> np.ndarray:
        """Of each pair, bool [n 2]: it has an image; it is of the second half of a pre-training step."""
        ...


class EncodedPairs:
    """Pair i is turn `turns[i]` of sample `numbers[i]` of `split`. `rejected` are samples that were left out."""

    def __init__(self, split: PreparedSplit, folder: Path):
        self.split = split
        self.folder = folder
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        self.numbers, self.turns = self._arrays["numbers"], self._arrays["turns"]
        self.rejected = tuple(Rejected(**r) for r in json.loads((folder / "rejected.json").read_text()))

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def num_shortened(self) -> int:
        """Pairs of which something was cut to fit the limits."""
        return int(self._arrays["shortened"].sum())

    @property
    def num_hinted(self) -> int:
        """Pairs that tell metadata of their image."""
        return int(self._arrays["hinted"].sum())

    def __len__(self) -> int:
        return len(self.numbers)

    def sample_id(self, index: int) -> str:
        """What the data set calls the sample of pair `index`, and its turn from 1."""
        return f"{self.split[int(self.numbers[index])].name}, turn {int(self.turns[index]) + 1}"

    def pair(self, index: int, rng: np.random.Generator) -> EncodedPair:
        source, given, target, end = self._arrays["starts"][3 * index : 3 * index + 4].tolist()
        ids = self._arrays["ids"]
        return EncodedPair(
            f"{self.split.name} #{self.numbers[index]}",
            ids[source:given],
            ids[given:target],
            ids[target:end],
            int(self._arrays["images"][index]),
            float(self._arrays["weights"][index]),
            bool(self._arrays["shortened"][index]),
            bool(self._arrays["hinted"][index]),
        )

    def lengths(self) -> np.ndarray:
        source, given, target = np.diff(self._arrays["starts"]).reshape(-1, 3).T
        return np.stack([source, given + target, target], axis=1)

    def kinds(self) -> np.ndarray:
        return np.stack([self._arrays["images"] >= 0, np.zeros(len(self), bool)], axis=1)

    def targets(self) -> dict[tuple[int, ...], int]:
        """Every target and the first pair that has it."""
        found: dict[tuple[int, ...], int] = {}
        for index in range(len(self)):
            _, _, target, end = self._arrays["starts"][3 * index : 3 * index + 4].tolist()
            found.setdefault(tuple(self._arrays["ids"][target:end].tolist()), index)
        return found

    def __reduce__(self) -> tuple:
        return EncodedPairs, (self.split, self.folder)


def encode_split_pairs(
    split: PreparedSplit,
    rules: PairRules,
    tokenizer: BiomedGptTokens,
    limits: TokenLimits,
    cache_dir: str | Path,
    overflow: Overflow = Overflow.ERROR,
    progress: Progress | None = None,
) -> EncodedPairs:
    """Encodes the split, or opens what an earlier call left in `cache_dir`.

    Samples that break a rule or the limits are a DataError naming the first ones, or with Overflow.SKIP are left out
    and listed in `.rejected`. With Overflow.TRUNCATE those over the limits are cut and counted in `num_shortened`.
    """
    files = [(f.path, f.sha256) for f in split.manifest.splits[split.split].files]
    parts = (VERSION, files, rules, fingerprint(tokenizer), limits, overflow is Overflow.TRUNCATE)
    folder = Path(cache_dir) / hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    make_once(folder, lambda part: _write(part, split, rules, tokenizer, limits, overflow, progress))
    encoded = EncodedPairs(split, folder)
    check_rejected(split, encoded.rejected, len(encoded), overflow is Overflow.SKIP)
    return encoded


def _write(
    part: Path,
    split: PreparedSplit,
    rules: PairRules,
    tokenizer: BiomedGptTokens,
    limits: TokenLimits,
    overflow: Overflow,
    progress: Progress | None,
) -> None:
    rejected: list[Rejected] = []
    chunks = [_arrays([], [])]
    for start in range(0, len(split), CHUNK):
        chunk = range(start, min(start + CHUNK, len(split)))
        places: list[tuple[int, int]] = []
        pairs: list[EncodedPair] = []
        for number, sample in zip(chunk, split.samples(chunk), strict=True):
            try:
                made = encode_pairs(sample, rules, tokenizer, limits, overflow)
            except DataError as error:
                rejected.append(rejected_for(number, sample, error))
                continue
            pairs += made
            places += [(number, turn) for turn in range(len(made))]
        chunks.append(_arrays(places, pairs))
        if progress:
            progress(chunk.stop, len(split))
    joined = {name: np.concatenate([arrays[name] for arrays in chunks]) for name in ARRAYS}
    joined["starts"] = np.concatenate([[0], np.cumsum(joined["starts"])]).astype(np.int64)
    for name, array in joined.items():
        np.save(part / f"{name}.npy", array)
    (part / "rejected.json").write_text(json.dumps([asdict(r) for r in rejected]))


def _arrays(places: Sequence[tuple[int, int]], pairs: Sequence[EncodedPair]) -> dict[str, np.ndarray]:
    """The arrays of some pairs; `starts` are still sizes."""
    texts = [ids for pair in pairs for ids in (pair.source, pair.given, pair.target)]
    return {
        "numbers": np.array([number for number, _ in places], np.int64),
        "turns": np.array([turn for _, turn in places], np.int32),
        "ids": np.concatenate([np.zeros(0, np.int32), *texts]),
        "starts": np.array([len(ids) for ids in texts], np.int64),
        "images": np.array([pair.image for pair in pairs], np.int64),
        "weights": np.array([pair.weight for pair in pairs], np.float32),
        "shortened": np.array([pair.shortened for pair in pairs], bool),
        "hinted": np.array([pair.hinted for pair in pairs], bool),
    }
