"""Text to ids and back: one interface over Llama-3 BPE, Hugging Face tokenizer.json and SentencePiece files.
BiomedGPT's vocabulary is in biomedgpt_tokens.py.

`encode` treats its text as ordinary text: the name of a special token inside it never becomes that token, and
no begin-of-text is added. Special tokens come from `special` alone, so data can't forge a turn of a chat.
"""

import abc
import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import tiktoken
import tokenizers

from biomedgpt_jax.data.errors import DataError

# Split rule of the Llama-3 vocabulary; part of its definition, absent from its file.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
LLAMA3_NUM_SPECIAL = 256
# Tokens that end an answer, where a vocabulary has them.
STOP_NAMES = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>")
# Tokens that may mark image positions. Such a token never occurs in text: an image token, else a reserved one.
# Llama 3 has no image token; its first reserved token (128002) is used by no chat format.
IMAGE_NAMES = ("<image>", "<|image_pad|>", "<|reserved_special_token_0|>", "<unused0>")
# Special tokens of a SentencePiece model trained here, after unk, bos, eos and pad.
TRAINED_SPECIAL = (
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<image>",
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<|im_start|>",
    "<|im_end|>",
)


class Tokenizer(abc.ABC):
    """What the rest of the package knows of a tokenizer, and the rules about special tokens that all share."""

    vocab_size: int
    bos_id: int | None  # None: texts start without one
    eos_id: int
    pad_id: int
    image_token_id: int  # stands at image positions; never in text
    stop_ids: tuple[int, ...]  # any of them ends an answer
    adds_space: bool  # encode("a") means " a" (Llama 2)
    special_ids: dict[str, int]
    files: tuple[Path, ...]

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text."""

    def special(self, name: str) -> int:
        """Id of a special token by its literal name; DataError if the vocabulary has none."""
        if name not in self.special_ids:
            known = ", ".join(list(self.special_ids)[:12])
            raise DataError(f"tokenizer {self.files[0]} has no special token {name!r}; it has {known}, ...")
        return self.special_ids[name]

    def decode(self, ids: Iterable[int] | np.ndarray, skip_special: bool = True) -> str:
        """Text of ids; special tokens are left out, or written by name."""
        ids = [int(i) for i in ids]
        if skip_special:
            return self._decode_text([i for i in ids if i not in self._special_names])
        parts: list[str] = []
        run: list[int] = []
        for i in ids:
            if i in self._special_names:
                parts += [self._decode_text(run), self._special_names[i]]
                run = []
            else:
                run.append(i)
        return "".join([*parts, self._decode_text(run)])

    @abc.abstractmethod
    def _decode_text(self, ids: list[int]) -> str:
        """Text of ids without special tokens."""

    def _finish(self, bos: int | None, eos: int, pad: int | None, image_token: str | None, unk: int | None) -> None:
        self.bos_id, self.eos_id = bos, eos
        self.pad_id = eos if pad is None else pad
        self.image_token_id = self._find_image_token(image_token, unk)
        self.stop_ids = tuple(dict.fromkeys([eos, *(self.special_ids[n] for n in STOP_NAMES if n in self.special_ids)]))
        self._special_names = {i: name for name, i in self.special_ids.items()}

    def _find_image_token(self, image_token: str | None, unk: int | None) -> int:
        if image_token is not None:
            return self.special(image_token)
        for name in IMAGE_NAMES:
            if name in self.special_ids:
                return self.special_ids[name]
        if unk is None:
            raise DataError(
                f"tokenizer {self.files[0]} has none of {', '.join(IMAGE_NAMES)} to mark image positions; "
                "name a special token that its texts never use (image_token)"
            )
        return unk


def load_tokenizer(path: str | Path, image_token: str | None = None) -> Tokenizer:
    """The tokenizer in a file or folder: tokenizer.json, tiktoken tokenizer.model, SentencePiece .model, or a folder
    of BART's or fairseq's files (BiomedGPT).

    `image_token` names the token for image positions where the vocabulary has no obvious one. DataError if
    there is none.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"tokenizer {path} does not exist")
    # Here, since that module builds on this one.
    from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens, holds_biomedgpt_tokens

    if path.is_dir() and holds_biomedgpt_tokens(path):
        return BiomedGptTokens(path)
    if path.is_dir():
        path = _find_in(path)
    if path.suffix == ".json":
        return HuggingFaceTokenizer(path, image_token)
    if _is_tiktoken(path):
        return TiktokenTokenizer(path, image_token)
    return SentencePieceTokenizer(path, image_token)


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Copies the tokenizer's own files into `folder`; `load_tokenizer(folder)` gives the same tokenizer."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}
    names |= {"vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "dict.txt"}
    for file in tokenizer.files:
        # A lone model file gets the name under which a folder is searched.
        target = folder / (file.name if file.name in names else "tokenizer.model")
        if not (target.exists() and target.samefile(file)):
            shutil.copyfile(file, target)


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of everything that decides the ids."""
    digest = hashlib.sha256(str((tokenizer.image_token_id, tokenizer.bos_id, tokenizer.eos_id)).encode())
    for file in tokenizer.files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class TiktokenTokenizer(Tokenizer):
    """Meta's Llama-3 `tokenizer.model`: lines of base64 bytes and rank; 256 special ids come after the ranks."""

    def __init__(self, path: Path, image_token: str | None = None):
        self.files = (path,)
        self.ranks = _read_ranks(path)
        self.special_ids = llama3_special_ids(len(self.ranks))
        self.vocab_size = len(self.ranks) + LLAMA3_NUM_SPECIAL
        self.adds_space = False
        self._encoding = tiktoken.Encoding(
            name="llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=self.ranks, special_tokens=self.special_ids
        )
        bos, eos = self.special("<|begin_of_text|>"), self.special("<|end_of_text|>")
        self._finish(bos, eos, None, image_token, None)

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def _decode_text(self, ids: list[int]) -> str:
        return self._encoding.decode(ids)


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json`, with tokenizer_config.json and generation_config.json beside it where present."""

    def __init__(self, path: Path, image_token: str | None = None):
        beside = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
        self.files = (path, *(path.parent / name for name in beside if (path.parent / name).is_file()))
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            raise DataError(f"{path} is not a tokenizer.json that this version can read ({error})") from error
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        config = _settings(self.files)
        named = {key: self._named(config, key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        self.special_ids = {token.content: i for i, token in added.items()}
        self.special_ids |= {str(self._tokenizer.id_to_token(i)): i for i in named.values() if i is not None}
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        first = self.encode("a")[:1]
        self.adds_space = bool(first) and (self._tokenizer.id_to_token(first[0]) or "").startswith("▁")
        eos = named["eos_token"]
        if eos is None:
            raise DataError(f"{path.parent}: tokenizer_config.json names no eos_token of this vocabulary")
        byte_fallback = getattr(self._tokenizer.model, "byte_fallback", False)
        unk = named["unk_token"] if byte_fallback else None
        bos = named["bos_token"] if self._adds_bos(config, named["bos_token"]) else None
        self._finish(bos, eos, named["pad_token"], image_token or _image_token(config), unk)
        ends = config.get("eos_token_id", [])
        self.stop_ids = tuple(dict.fromkeys([*self.stop_ids, *([ends] if isinstance(ends, int) else ends)]))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _decode_text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _named(self, config: dict, key: str) -> int | None:
        name = config.get(key)
        name = name.get("content") if isinstance(name, dict) else name
        return self._tokenizer.token_to_id(name) if isinstance(name, str) else None

    def _adds_bos(self, config: dict, bos: int | None) -> bool:
        """Whether this tokenizer puts bos before a text by itself (post-processor or settings)."""
        start = self._tokenizer.encode("", add_special_tokens=True).ids[:1]
        return start == [bos] or config.get("add_bos_token") is True


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece `.model`; control pieces are its special tokens."""

    def __init__(self, path: Path, image_token: str | None = None):
        self.files = (path,)
        self.model = sentencepiece.SentencePieceProcessor()
        try:
            self.model.LoadFromFile(str(path))
        except (RuntimeError, OSError) as error:
            raise DataError(f"{path} is neither a tiktoken nor a SentencePiece model ({error})") from error
        size = self.vocab_size = self.model.GetPieceSize()
        named = [i for i in range(size) if self.model.IsControl(i) or self.model.IsUnknown(i)]
        self.special_ids = {self.model.IdToPiece(i): i for i in named}
        first = self.encode("a")[:1]
        self.adds_space = bool(first) and self.model.IdToPiece(first[0]).startswith("▁")
        has_bytes = any(self.model.IsByte(i) for i in range(size))
        if self.model.eos_id() < 0:
            raise DataError(f"{path}: this SentencePiece model has no eos piece")
        bos, eos, pad = self.model.bos_id(), self.model.eos_id(), self.model.pad_id()
        unk = self.model.unk_id() if has_bytes else None
        self._finish(None if bos < 0 else bos, eos, None if pad < 0 else pad, image_token, unk)

    def encode(self, text: str) -> list[int]:
        return self.model.EncodeAsIds(text)

    def _decode_text(self, ids: list[int]) -> str:
        return self.model.DecodeIds(ids)


def train_sentencepiece(texts: Iterable[str], path: str | Path, vocab_size: int) -> SentencePieceTokenizer:
    """Trains a lossless BPE model with byte fallback on `texts` and writes it to `path`.

    It knows the special tokens of every template and has its own image token. White space and letters are
    kept as they are (no normalisation, no added space); only U+2581, SentencePiece's own sign for a space,
    reads back as a space.
    """
    path = Path(path)
    lines = (line for text in texts for line in text.splitlines() if line.strip())
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=lines,
                model_writer=file,
                vocab_size=vocab_size,
                model_type="bpe",
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                allow_whitespace_only_pieces=True,
                split_digits=True,
                max_sentence_length=1 << 20,
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=3,
                unk_piece="<unk>",
                bos_piece="<|begin_of_text|>",
                eos_piece="<|end_of_text|>",
                pad_piece="<|pad|>",
                control_symbols=list(TRAINED_SPECIAL),
                minloglevel=2,
            )
        os.replace(part, path)
    except RuntimeError as error:
        raise DataError(
            f"no SentencePiece model of {vocab_size} pieces could be trained on these texts: {error} The number is set "
            "by config.tokenizer.train_vocab_size"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return SentencePieceTokenizer(path)


def llama3_special_ids(first: int) -> dict[str, int]:
    """Names of the 256 special tokens as in Llama 3.1; the ids are those of every Llama 3."""
    unnamed = (n for n in range(LLAMA3_NUM_SPECIAL) if n not in LLAMA3_NAMED)
    names = {n: f"<|reserved_special_token_{k}|>" for k, n in enumerate(unnamed)} | LLAMA3_NAMED
    return {names[n]: first + n for n in range(LLAMA3_NUM_SPECIAL)}


def _find_in(folder: Path) -> Path:
    names = ["tokenizer.json", "tokenizer.model", "spiece.model"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = sorted(folder.glob("*.model"))
    if len(others) == 1:
        return others[0]
    raise DataError(
        f"{folder} holds no tokenizer: looked for {', '.join(names)}, a single *.model file, or "
        "vocab.json and merges.txt"
    )


def _is_tiktoken(path: Path) -> bool:
    with path.open("rb") as file:
        words = file.readline(4096).split()
    try:
        return len(words) == 2 and words[1].isdigit() and bool(base64.b64decode(words[0], validate=True))
    except ValueError:
        return False


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected 'base64 rank', found {line[:60]!r}") from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise DataError(f"{path}: ranks are not 0..{len(ranks) - 1}; the file is damaged")
    return ranks


def _image_token(config: dict) -> str | None:
    """What the settings of an export, or of transformers' own processors, name as image token."""
    extra = config.get("extra_special_tokens")
    return extra.get("image_token") if isinstance(extra, dict) else None


def _settings(files: Sequence[Path]) -> dict:
    """The named tokens of the files beside a tokenizer.json; tokenizer_config.json wins."""
    settings: dict = {}
    for file in files[:0:-1]:
        try:
            settings |= json.loads(file.read_text())
        except ValueError as error:
            raise DataError(f"{file} is not JSON ({error})") from error
    return settings
