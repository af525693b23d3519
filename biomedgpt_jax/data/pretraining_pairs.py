"""The examples of a split of pre-training data: which there are and how long they are is kept on disk, what they say
is made when they are read.
"""

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from biomedgpt_jax.data.augment import Augmentation, refuse_flips
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.encoded import CHUNK, Progress, Rejected, check_rejected, rejected_for
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import upright_sides
from biomedgpt_jax.data.infilling import MOST_EMPTY
from biomedgpt_jax.data.kept_folder import make_once
from biomedgpt_jax.data.pair_encoding import EncodedPair
from biomedgpt_jax.data.pretraining_tasks import (
    EXAMPLES,
    SECOND_HALF,
    Example,
    Maker,
    Pools,
    PretrainingSettings,
    answer_of,
    answer_type,
    caption_of,
    objects_of,
)
from biomedgpt_jax.data.source import PreparedSplit, Sample
from biomedgpt_jax.data.tasks import Overflow
from biomedgpt_jax.data.tokenizers import fingerprint

VERSION = 2  # raise it when the same inputs would give other examples
ARRAYS = ("numbers", "turns", "examples", "lengths", "pictured")
CAPTIONED = (Example.CAPTION, Example.MATCHING, Example.ANSWER, Example.VERIFICATION)  # their pictures may be varied
MAX_POOL = 20_000  # different objects, and answers of a type, that wrong examples are drawn from


class PretrainingPairs:
    """Pair i is an example of turn `turns[i]` of sample `numbers[i]`. `augmentation`: of the pictures of captions and
    questions; None: they are seen whole.
    """

    def __init__(
        self,
        split: PreparedSplit,
        folder: Path,
        tokenizer: BiomedGptTokens,
        settings: PretrainingSettings,
        augmentation: Augmentation | None,
    ):
        self.split, self.folder = split, folder
        self.tokenizer, self.settings, self.augmentation = tokenizer, settings, augmentation
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        self.numbers, self.turns = self._arrays["numbers"], self._arrays["turns"]
        kept = json.loads((folder / "pools.json").read_text())
        self.rejected = tuple(Rejected(**each) for each in kept["rejected"])
        self._captions = np.flatnonzero(self._arrays["examples"] == Example.CAPTION)
        answers = {kind: tuple(answers) for kind, answers in kept["answers"].items()}
        pools = Pools(self._caption, tuple(kept["objects"]), answers, kept["longest_caption"])
        self._maker = Maker(tokenizer, settings, pools, partial(_sides, split))

    @property
    def key(self) -> str:
        return f"{self.folder.name} {self.augmentation.name if self.augmentation else None}"

    @property
    def examples_per_row(self) -> float:
        """Two of a row with a caption, a question or a region, else one."""
        return len(self) / len(np.unique(np.stack([self.numbers, self.turns]), axis=1).T)

    def __len__(self) -> int:
        return len(self.numbers)

    def sample_id(self, index: int) -> str:
        """What the data set calls the sample, its turn from 1 and what is made of it."""
        example = Example(int(self._arrays["examples"][index])).name.lower()
        return f"{self.split[int(self.numbers[index])].name}, turn {int(self.turns[index]) + 1}, {example}"

    def pair(self, index: int, rng: np.random.Generator) -> EncodedPair:
        sample, example = self.split[int(self.numbers[index])], Example(int(self._arrays["examples"][index]))
        pair = self._maker.make(example, sample, sample.turns[int(self.turns[index])], rng)
        if self.augmentation is None or example not in CAPTIONED:
            return pair
        return replace(pair, view=partial(self._view, rng.spawn(1)[0]))

    def lengths(self) -> np.ndarray:
        return np.asarray(self._arrays["lengths"])

    def kinds(self) -> np.ndarray:
        extra = np.isin(self._arrays["examples"], SECOND_HALF)
        return np.stack([self._arrays["pictured"], extra], axis=1)

    def _view(self, rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
        assert self.augmentation is not None
        return self.augmentation(rgb, self.settings.image_size, rng)

    def _caption(self, rng: np.random.Generator) -> str:
        index = int(rng.choice(self._captions))
        sample = self.split[int(self.numbers[index])]
        return caption_of(sample, sample.turns[int(self.turns[index])])

    def __reduce__(self) -> tuple:
        return PretrainingPairs, (self.split, self.folder, self.tokenizer, self.settings, self.augmentation)


def pretraining_pairs(
    split: PreparedSplit,
    tokenizer: BiomedGptTokens,
    settings: PretrainingSettings,
    augmentation: Augmentation | None,
    cache_dir: str | Path,
    overflow: Overflow = Overflow.ERROR,
    progress: Progress | None = None,
) -> PretrainingPairs:
    """Lists the examples of a split, or opens what an earlier call left in `cache_dir`.

    Samples that lack what their task needs are a DataError naming the first ones, or with Overflow.SKIP are left out
    and listed in `.rejected`. DataError also where pictures would be flipped although a text names sides.
    """
    if settings.flips or (augmentation is not None and augmentation.flips):
        refuse_flips(split)
    files = [(f.path, f.sha256) for f in split.manifest.splits[split.split].files]
    known = repr((VERSION, files, settings, fingerprint(tokenizer)))
    folder = Path(cache_dir) / hashlib.sha256(known.encode()).hexdigest()[:32]
    make_once(folder, lambda part: _Listing(split, tokenizer, settings).write(part, progress))
    pairs = PretrainingPairs(split, folder, tokenizer, settings, augmentation)
    check_rejected(split, pairs.rejected, len(pairs), overflow is Overflow.SKIP)
    return pairs


class _Listing:
    """Goes through a split once."""

    def __init__(self, split: PreparedSplit, tokenizer: BiomedGptTokens, settings: PretrainingSettings):
        self.split = split
        # Only lengths are wanted here; what depends on other rows gets its bounds at the end.
        pools = Pools(lambda rng: "", (), {}, 1 << 30)
        self.maker = Maker(tokenizer, settings, pools, partial(_sides, split))
        self.rejected: list[Rejected] = []
        self.rows: list[tuple[int, int, Example, int, int, int, bool]] = []
        self.objects: dict[str, None] = {}
        self.answers: dict[str, dict[str, int]] = defaultdict(dict)
        self.longest_caption = 0

    def write(self, part: Path, progress: Progress | None) -> None:
        for start in range(0, len(self.split), CHUNK):
            chunk = range(start, min(start + CHUNK, len(self.split)))
            for number, sample in zip(chunk, self.split.samples(chunk), strict=True):
                try:
                    self.rows += self._examples(number, sample)
                except DataError as error:
                    self.rejected.append(rejected_for(number, sample, error))
            if progress:
                progress(chunk.stop, len(self.split))
        for name, array in self._arrays().items():
            np.save(part / f"{name}.npy", array)
        pools = {
            "objects": sorted(self.objects),
            "answers": {kind: sorted(answers) for kind, answers in self.answers.items()},
            "longest_caption": self.longest_caption,
            "rejected": [asdict(rejected) for rejected in self.rejected],
        }
        (part / "pools.json").write_text(json.dumps(pools))

    def _examples(self, number: int, sample: Sample) -> list[tuple[int, int, Example, int, int, int, bool]]:
        task = str(sample.meta.get("task"))
        if task not in EXAMPLES:
            raise DataError(f"sample {sample.name}: meta.task is {task!r}, expected one of {sorted(EXAMPLES)}")
        if (task == "text") == bool(sample.images) or len(sample.images) > 1:
            raise DataError(
                f"sample {sample.name}: {len(sample.images)} images; a {task} row has {int(task != 'text')}"
            )
        rows = []
        for place, turn in enumerate(sample.turns):
            for example in EXAMPLES[task]:
                pair = self.maker.make(example, sample, turn, np.random.default_rng(0))
                sizes = (self._source(example, pair), len(pair.target), len(pair.target))
                rows.append((number, place, example, *sizes, bool(sample.images)))
            if task == "caption":
                self._keep_caption(sample, caption_of(sample, turn))
            if task == "vqa":
                answer = answer_of(sample, turn)
                kept = self.answers[answer_type(answer)]
                if len(kept) < MAX_POOL:
                    kept[answer] = len(self.maker.ids(" " + answer))
        return rows

    def _keep_caption(self, sample: Sample, caption: str) -> None:
        self.longest_caption = max(self.longest_caption, len(self.maker.ids(" " + caption)))
        if len(self.objects) < MAX_POOL:
            self.objects.update(dict.fromkeys(objects_of(sample)))

    def _source(self, example: Example, pair: EncodedPair) -> int:
        """Tokens of the source; of a text, with the most masks that may be put between its words."""
        if example is not Example.TEXT:
            return len(pair.source)
        return 2 + len(self.maker.ids(' what is the complete text of "', ' "?')) + len(pair.target) - 1 + MOST_EMPTY

    def _arrays(self) -> dict[str, np.ndarray]:
        columns = list(zip(*self.rows, strict=True)) or [()] * 7
        examples = np.array(columns[2], np.int8)
        lengths = np.array(columns[3:6], np.int64).T.reshape(-1, 3)
        longest_answer = max((size for answers in self.answers.values() for size in answers.values()), default=0)
        # A wrong caption or answer may be as long as any of the split.
        told = {
            Example.MATCHING: 2 + self.longest_caption + len(self.maker.ids(' does the image describe "', ' "?')),
            Example.VERIFICATION: lengths[examples == Example.VERIFICATION, 0].max(initial=0) + longest_answer,
        }
        for example, bound in told.items():
            lengths[examples == example, 0] = bound
        return {
            "numbers": np.array(columns[0], np.int64),
            "turns": np.array(columns[1], np.int32),
            "examples": examples,
            "lengths": lengths,
            "pictured": np.array(columns[6], bool),
        }


def _sides(split: PreparedSplit, image: int) -> tuple[int, int]:
    return upright_sides(split.image(image))
