"""From encoded pairs to batches: every row of a run is planned, then built at random access.

What is drawn for a row (masks, negatives, augmentation, noise) depends on the seed, the epoch and the pair's number
alone, so that batches are the same after a restart and with any number of processes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from biomedgpt_jax.data.batch_iterator import BatchIterator, Reading
from biomedgpt_jax.data.batches import NO_SAMPLE, HostBatch, ImageReader, ImageTransform
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.encoded_pairs import Pairs
from biomedgpt_jax.data.errors import DataError, UnusableSamples
from biomedgpt_jax.data.images import decode_rgb
from biomedgpt_jax.data.mixture import Mixture, Part
from biomedgpt_jax.data.pair_batches import EOS, PairFields, PairShape, bucket_of, empty_pair_batch, fill_pair_row
from biomedgpt_jax.data.pair_encoding import EncodedPair
from biomedgpt_jax.data.pair_plan import PairPlan, plan_pairs
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import Overflow
from biomedgpt_jax.data.trie import Trie

NOT_LISTED = "its answer is not in the closed list"


@dataclass(frozen=True)
class PairSettings:
    """What decides the batches beside the data.

    `buckets`: the static shapes; a pair goes to the first that holds it. `trie`: the answers, for a loss restricted
    to them. `noise`: share of the decoder's input that is replaced by random words. `even`: every batch has the
    largest shape, room for images, and the parts in their proportions; else batches are of one bucket and kind each.
    `patches_kept`: so many patches are seen of a pair of the first half in a step that has both halves; 0: all.
    """

    buckets: tuple[PairShape, ...]
    image_size: tuple[int, int]
    trie: Trie | None = None
    noise: float = 0.0
    even: bool = False
    patches_kept: int = 0


@dataclass(frozen=True)
class PairFill:
    """How full the rows of a plan are; shares are between 0 and 1."""

    rows: int
    samples: int
    source_share: float
    target_share: float


@dataclass(frozen=True)
class PairData:
    """All batches of a run. `skipped` are the numbers of the pairs that were left out."""

    mixture: Mixture[Pairs]
    settings: PairSettings
    words: range  # ids of ordinary words, from which noise is drawn
    plan: PairPlan
    batch_size: int
    seed: int
    fill: PairFill
    skipped: tuple[int, ...]

    @property
    def num_steps(self) -> int:
        return len(self.plan)

    @property
    def shapes(self) -> list[tuple[PairShape, bool]]:
        """The (shape, has images) of its batches, the commonest first: what will be compiled."""
        buckets = _buckets(self.settings)
        return [(buckets[bucket], seen) for bucket, seen in self.plan.kinds()]

    def sample_id(self, number: int) -> str:
        """'folder:split id' of a number in `samples` of a batch."""
        return self.mixture.sample_id(number)

    def batches(self, images: ImageTransform, reading: Reading, rows: range | None = None) -> BatchIterator:
        """The rows of every batch that one process reads (None: all), from the first batch on.

        `images` turns encoded bytes into pixels.
        """
        return BatchIterator(_Batches(self, images, reading, rows or range(self.batch_size)), reading)


def build_pair_data(
    parts: Sequence[Part[Pairs]],
    tokenizer: BiomedGptTokens,
    settings: PairSettings,
    batch_size: int,
    num_epochs: int,
    seed: int,
    overflow: Overflow = Overflow.ERROR,
) -> PairData:
    """Plans every batch of `num_epochs` epochs; the same arguments give the same batches everywhere.

    Raises DataError naming a pair that no bucket holds or whose answer is not in the list, unless `overflow` says to
    skip it.
    """
    mixture = Mixture(parts)
    buckets = _buckets(settings)
    lengths = np.concatenate([part.encoded.lengths() for part in parts])
    pictured = np.concatenate([part.encoded.kinds()[:, 0] for part in parts])
    where = bucket_of(lengths[:, 0], lengths[:, 1], buckets)
    usable = where < len(buckets)
    if overflow is not Overflow.SKIP and not usable.all():
        raise _too_large(mixture, lengths, buckets, usable)
    unlisted = _unlisted(mixture, settings.trie)
    if overflow is not Overflow.SKIP and unlisted.any():
        raise _not_in_list(mixture, unlisted)
    usable &= ~unlisted
    if not usable.any():
        raise DataError(
            f"none of the {len(usable)} pairs can be used: all are too long or their answers not in the list"
        )
    order = mixture.even_order if settings.even else mixture.epoch_order
    orders = [order(usable, seed, epoch) for epoch in range(num_epochs)]
    with_images = np.ones(len(usable), bool) if settings.even and pictured.any() else pictured
    plan = plan_pairs(orders, where, with_images, batch_size)
    return PairData(
        mixture,
        settings,
        tokenizer.words,
        plan,
        batch_size,
        seed,
        _fill(plan, lengths, buckets),
        tuple(np.flatnonzero(~usable).tolist()),
    )


class _Batches:
    """Random access: item n is `rows` of batch n."""

    def __init__(self, data: PairData, images: ImageTransform, reading: Reading, rows: range):
        self._data = data
        self._reader = ImageReader(images, data.settings.image_size, reading.image_cache_bytes)
        self._rows = rows
        parts = data.mixture.parts
        self._targets = np.concatenate([part.encoded.lengths()[:, 2] for part in parts])
        self._extra = np.concatenate([part.encoded.kinds()[:, 1] for part in parts])
        self._pretraining = bool(self._extra.any())

    def __len__(self) -> int:
        return self._data.num_steps

    def digest(self) -> str:
        """A hash of what is in the batches, whoever makes them."""
        data = self._data
        trie = None if data.settings.trie is None else data.settings.trie.answers
        known = ([part.encoded.key for part in data.mixture.parts], replace(data.settings, trie=None), trie)
        digest = hashlib.sha256(repr((*known, data.batch_size, data.seed)).encode())
        for array in (data.plan.numbers, data.plan.epochs, data.plan.buckets):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def __getitem__(self, index: int) -> HostBatch:
        data, step = self._data, int(index)
        settings, plan = data.settings, data.plan
        size = settings.image_size if plan.pictured[step] else None
        shape = _buckets(settings)[int(plan.buckets[step])]
        fields = PairFields(size, self._pretraining, settings.trie is not None)
        batch = empty_pair_batch(len(self._rows), shape, fields)
        first, second = self._weights(step)
        for row, place in enumerate(self._rows):
            number = int(plan.numbers[step, place])
            if number == NO_SAMPLE:
                continue
            pairs, within = data.mixture.locate(number)
            rng = np.random.default_rng((data.seed, int(plan.epochs[step, place]), number))
            pair = pairs.pair(within, rng)
            picture = self._picture(pairs.split, pair) if pair.image >= 0 else None
            weight = pair.weight * (second if pair.extra else first)
            nodes = None if settings.trie is None else answer_nodes(settings.trie, pair)
            fill_pair_row(batch, row, pair, number, picture, weight=weight, answer_nodes=nodes)
            if settings.noise:
                _disturb(batch["tokens"][row], pair, settings.noise, data.words, rng)
            if "patches_kept" in batch and settings.patches_kept and second and not pair.extra:
                batch["patches_kept"][row] = settings.patches_kept
        return batch

    def _picture(self, split: PreparedSplit, pair: EncodedPair) -> np.ndarray:
        if pair.view is None:
            return self._reader.read(split, pair.image)
        name = f"{split.name}, image record {pair.image}"
        return pair.view(decode_rgb(split.image(pair.image), (0, 0, 0), name))

    def _weights(self, step: int) -> tuple[float, float]:
        """Factors of the tokens of both halves of a pre-training step: the sum of two means, over the whole batch.

        They are scaled by the number of tokens that learn, so that a plain step has factors of one; a second factor
        of 0 says that the step has no second half.
        """
        numbers = self._data.plan.numbers[step]
        real = numbers[numbers != NO_SAMPLE]
        extra = self._extra[real]
        first, second = int(self._targets[real[~extra]].sum()), int(self._targets[real[extra]].sum())
        if not first or not second:
            return 1.0, float(second > 0)
        return (first + second) / first, (first + second) / second


def answer_nodes(trie: Trie, pair: EncodedPair) -> np.ndarray:
    """The trie's node before each token of the target, int32 [len(target)]. DataError if it is none of the answers."""
    answer = tuple(pair.target.tolist())
    ended = answer if answer[-1] == EOS else (*answer, EOS)
    return trie.nodes(ended)[: len(answer)]


def _buckets(settings: PairSettings) -> list[PairShape]:
    if settings.even:
        shapes = settings.buckets
        return [PairShape(max(shape.source for shape in shapes), max(shape.target for shape in shapes))]
    return sorted(settings.buckets)


def _disturb(tokens: np.ndarray, pair: EncodedPair, share: float, words: range, rng: np.random.Generator) -> None:
    """Replaces words that the decoder reads of its own target, never <s> or what it is given."""
    here = tokens[1 + len(pair.given) : pair.decoder_length]
    wrong = rng.random(len(here)) < share
    here[wrong] = rng.integers(words.start, words.stop, int(wrong.sum()))


def _unlisted(mixture: Mixture[Pairs], trie: Trie | None) -> np.ndarray:
    """Pairs whose target is none of the answers, bool [n]."""
    if trie is None:
        return np.zeros(len(mixture), bool)
    listed = set(trie.answers)
    unlisted = []
    for number in range(len(mixture)):
        pairs, within = mixture.locate(number)
        answer = tuple(pairs.pair(within, np.random.default_rng(0)).target.tolist())
        unlisted.append((answer if answer[-1] == EOS else (*answer, EOS)) not in listed)
    return np.array(unlisted, bool)


def _fill(plan: PairPlan, lengths: np.ndarray, buckets: Sequence[PairShape]) -> PairFill:
    real = plan.numbers[plan.numbers != NO_SAMPLE]
    sizes = np.array([(buckets[bucket].source, buckets[bucket].target) for bucket in plan.buckets.tolist()])
    room = sizes.sum(axis=0) * plan.numbers.shape[1]
    used = lengths[real][:, :2].sum(axis=0) / np.maximum(room, 1)
    return PairFill(int(plan.numbers.size), len(real), float(used[0]), float(used[1]))


def _too_large(
    mixture: Mixture[Pairs], lengths: np.ndarray, buckets: Sequence[PairShape], usable: np.ndarray
) -> DataError:
    found = [
        (mixture.sample_id(number), f"{lengths[number, 0]} source and {lengths[number, 1]} decoder tokens")
        for number in np.flatnonzero(~usable).tolist()
    ]
    return UnusableSamples(
        f"sample {': '.join(found[0])}, but the largest bucket is "
        f"{max((shape.source, shape.target) for shape in buckets)}; {len(found)} of {len(usable)} pairs are too large. "
        f"Allow a larger bucket, or set on_overflow to 'skip' or 'truncate'",
        found,
    )


def _not_in_list(mixture: Mixture[Pairs], unlisted: np.ndarray) -> DataError:
    found = [(mixture.sample_id(number), NOT_LISTED) for number in np.flatnonzero(unlisted).tolist()]
    return UnusableSamples(
        f"the answers of {len(found)} of {len(unlisted)} pairs are not in the list of answers: "
        f"{', '.join(name for name, _ in found[:3])}. "
        "Make the list from the split that is trained on, or set on_overflow to 'skip'",
        found,
    )
