"""BiomedGPT's vocabulary: GPT-2's byte-level BPE in fairseq's order, then image codes and coordinate bins.

    0..3  <s> <pad> </s> <unk> | words, ordered by frequency | <mask> | <code_0>.. | <bin_0>..

Every number of this layout is read off the files, so that a small vocabulary trained here has the same layout as the
published one of 50,265 words, 8,192 codes and 1,000 bins.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.tokenizers import Tokenizer

BART_FILES = ("vocab.json", "merges.txt")  # BART's and RoBERTa's
FAIRSEQ_FILES = ("encoder.json", "vocab.bpe", "dict.txt")  # GPT-2's own, and fairseq's dictionary
SETTINGS = "tokenizer_config.json"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
FILLER = re.compile(r"madeupword\d{4}")
CODES, BINS = 8192, 1000  # where the settings do not say
PUBLISHED_WORDS = 50265
# What the published order makes of a text (facts of the release); a vocabulary of its size must agree.
PUBLISHED_IDS = {
    " what does the image describe?": [99, 473, 5, 2274, 6190, 116],
    " which region does the text": [61, 976, 473, 5, 2788],
    " yes no maybe": [4420, 117, 2085],
}


class BiomedGptTokens(Tokenizer):
    """The tokenizer in a folder of BART's files (vocab.json, merges.txt) or of fairseq's three.

    `encode` adds neither <s>, </s> nor the space that BiomedGPT puts in front of a text. `starts_word` is
    bool [vocab_size]: tokens that begin a word, for masking whole words.

    Raises:
        DataError: files that are missing, broken, or in another order than fairseq's.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        names = BART_FILES if (folder / BART_FILES[0]).is_file() else FAIRSEQ_FILES
        for name in names:
            if not (folder / name).is_file():
                raise DataError(f"{folder} lacks {name}; a BiomedGPT tokenizer is {_described()}")
        settings = folder / SETTINGS
        self.files = tuple(folder / name for name in (*names, *([SETTINGS] if settings.is_file() else [])))
        vocabulary = _bart_vocabulary(self.files[0]) if names == BART_FILES else _fairseq_vocabulary(*self.files[:3])
        merges = _read_merges(self.files[1])
        _check_layout(vocabulary, merges, folder)
        numbers = _read_json(settings) if settings.is_file() else {}
        self.num_codes = _count(numbers, "image_codes", CODES, settings)
        self.num_bins = _count(numbers, "coordinate_bins", BINS, settings)
        self._bpe = _bpe(vocabulary, merges)
        self._assign(vocabulary)
        if len(vocabulary) == PUBLISHED_WORDS:
            self._check_order(folder)

    def encode(self, text: str) -> list[int]:
        return self._bpe.encode(text, add_special_tokens=False).ids

    def code_id(self, code: int) -> int:
        """Id of image code `code`; DataError outside of 0..num_codes-1."""
        return self._numbered(code, self.num_codes, self.first_code, "image code")

    def bin_id(self, number: int) -> int:
        """Id of coordinate bin `number`; DataError outside of 0..num_bins-1."""
        return self._numbered(number, self.num_bins, self.first_bin, "coordinate bin")

    @property
    def words(self) -> range:
        """Ids of the words of texts."""
        return range(len(SPECIAL), self.mask_id)

    @property
    def unsaid(self) -> tuple[range, ...]:
        """Ids that an answer in words never holds: marks, image codes and bins. It may end with </s>."""
        return range(self.eos_id), range(self.eos_id + 1, self.words.start), range(self.mask_id, self.vocab_size)

    def _decode_text(self, ids: list[int]) -> str:
        return self._bpe.decode(ids, skip_special_tokens=False)

    def _assign(self, vocabulary: dict[str, int]) -> None:
        self.mask_id = vocabulary[MASK]
        self.first_code = len(vocabulary)
        self.first_bin = self.first_code + self.num_codes
        self.vocab_size = self.first_bin + self.num_bins
        self.adds_space = False
        plain = [name for name in vocabulary if name in (*SPECIAL, MASK) or FILLER.fullmatch(name)]
        self.special_ids = {name: vocabulary[name] for name in plain}
        self.special_ids |= {f"<code_{n}>": self.first_code + n for n in range(self.num_codes)}
        self.special_ids |= {f"<bin_{n}>": self.first_bin + n for n in range(self.num_bins)}
        self._finish(bos=0, eos=2, pad=1, image_token=None, unk=3)
        self.starts_word = np.zeros(self.vocab_size, bool)
        self.starts_word[list(self.special_ids.values())] = True
        self.starts_word[[number for name, number in vocabulary.items() if name.startswith("Ġ")]] = True

    def _numbered(self, number: int, count: int, first: int, what: str) -> int:
        if not 0 <= number < count:
            raise DataError(f"{what} {number}: this vocabulary has 0..{count - 1}")
        return first + int(number)

    def _check_order(self, folder: Path) -> None:
        for text, expected in PUBLISHED_IDS.items():
            found = self.encode(text)
            if found != expected:
                raise DataError(
                    f"{folder}: {text!r} becomes {found}, in the order of fairseq's dictionary {expected}. This is "
                    "the vocabulary of another model (GPT-2's own order?); use BART's or RoBERTa's vocab.json"
                )


def train_biomedgpt_tokens(
    texts: Iterable[str], folder: str | Path, words: int, codes: int, bins: int
) -> BiomedGptTokens:
    """Trains a byte-level BPE on `texts` and writes it in BiomedGPT's layout; for runs without the real vocabulary.

    It has at most `words` + 5 + codes + bins ids, of which 256 words are the bytes; the same texts give the same
    files.

    Raises:
        DataError: fewer words than bytes.
    """
    if words < 256:
        raise DataError(f"a byte-level vocabulary needs 256 words at least, asked for {words}")
    learned = tokenizers.Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=words, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    learned.train_from_iterator(texts, trainer)
    model = json.loads(learned.to_str())["model"]
    names = [*SPECIAL, *sorted(model["vocab"], key=model["vocab"].__getitem__), MASK]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {name: number for number, name in enumerate(names)}
    (folder / BART_FILES[0]).write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / BART_FILES[1]).write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    settings = {"image_codes": codes, "coordinate_bins": bins}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return BiomedGptTokens(folder)


def holds_biomedgpt_tokens(folder: Path) -> bool:
    """Whether a folder has the files of this tokenizer and no tokenizer.json."""
    kinds = (BART_FILES, FAIRSEQ_FILES)
    return not (folder / "tokenizer.json").exists() and any(
        all((folder / name).is_file() for name in names) for names in kinds
    )


def _bpe(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    # No added tokens: the name of a special token inside a text stays text.
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _bart_vocabulary(path: Path) -> dict[str, int]:
    vocabulary = _read_json(path)
    # A vocabulary that was saved with its added tokens: they are counted in the settings here.
    kept = {name: number for name, number in vocabulary.items() if not re.fullmatch(r"<(code|bin)_\d+>", name)}
    if not all(isinstance(number, int) for number in kept.values()):
        raise DataError(f"{path}: expected token -> id, found values that are no numbers")
    return dict(sorted(kept.items(), key=lambda item: item[1]))


def _fairseq_vocabulary(encoder: Path, merges: Path, dictionary: Path) -> dict[str, int]:
    """Ids by the lines of dict.txt ('GPT-2 id, count'), whose names encoder.json has."""
    names = {str(number): name for name, number in _read_json(encoder).items()}
    order: list[str] = []
    for row, line in enumerate(dictionary.read_text(encoding="utf-8").splitlines(), 1):
        number, _, count = line.partition(" ")
        name = number if FILLER.fullmatch(number) else names.get(number)
        if name is None or not count.strip().isdigit():
            raise DataError(f"{dictionary}, line {row}: expected an id of {encoder.name} and a count, found {line!r}")
        order.append(name)
    return {name: number for number, name in enumerate([*SPECIAL, *order, MASK])}


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
    merges = []
    for row, line in enumerate(lines, 1):
        if (row == 1 and line.startswith("#version")) or not line:
            continue
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            raise DataError(f"{path}, line {row}: expected two pieces, found {line[:60]!r}")
        merges.append((first, second))
    return merges


def _check_layout(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], folder: Path) -> None:
    if list(vocabulary.values()) != list(range(len(vocabulary))):
        raise DataError(f"{folder}: the ids of its words are not 0..{len(vocabulary) - 1}, each once")
    names = list(vocabulary)
    if tuple(names[:4]) != SPECIAL or names[-1] != MASK:
        raise DataError(
            f"{folder}: ids 0..3 are {names[:4]} and the last word is {names[-1]!r}; expected {list(SPECIAL)} and "
            f"{MASK!r}. A BiomedGPT tokenizer is {_described()}"
        )
    lost = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter not in vocabulary]
    if lost:
        raise DataError(f"{folder}: {len(lost)} of the 256 bytes are no words of it, for example {min(lost)!r}")
    for first, second in merges:
        if not {first, second, first + second} <= vocabulary.keys():
            raise DataError(f"{folder}: the merge of {first!r} and {second!r} is in one file, not in the other")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def _count(settings: dict[str, Any], key: str, published: int, path: Path) -> int:
    count = settings.get(key, published)
    if not isinstance(count, int) or count < 1:
        raise DataError(f"{path}: {key} is {count!r}, expected a number of tokens")
    return count


def _described() -> str:
    return f"{' and '.join(BART_FILES)} of BART or RoBERTa, or {', '.join(FAIRSEQ_FILES)}"
