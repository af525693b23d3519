"""The exported folder, read by transformers, gives our ids, our text and our prompts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.tasks import PLACEHOLDER, encode_prompt, encode_sample
from biomedgpt_jax.data.tokenizer_export import to_tokenizer_json
from biomedgpt_jax.data.tokenizers import SentencePieceTokenizer, Tokenizer, load_tokenizer

CHAT = ["llama3", "phi", "llama", "gemma"]


@dataclass(frozen=True)
class Exported:
    """A tokenizer, and what we and transformers read from the folder that it was exported to."""

    source: Tokenizer
    ours: Tokenizer
    theirs: PreTrainedTokenizerBase


@pytest.fixture(scope="module", params=["small_sp", "llama3"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("export")
    to_tokenizer_json(source, folder, TEMPLATES["llama3"])
    return Exported(source, load_tokenizer(folder), AutoTokenizer.from_pretrained(folder))


def check_equal(source: Tokenizer, ours: Tokenizer, theirs: PreTrainedTokenizerBase, texts: list[str]) -> None:
    for text in texts:
        ids = source.encode(text)
        assert ours.encode(text) == ids
        # Text that names a special token is where transformers differs on purpose.
        if "<|" not in text:
            assert theirs(text)["input_ids"] == [source.bos_id, *ids]
        assert ours.decode(ids) == source.decode(ids) == theirs.decode(ids)


def test_ids_and_text_are_equal(exported: Exported, strange_texts: list[str]) -> None:
    check_equal(exported.source, exported.ours, exported.theirs, strange_texts)


def test_ids_of_real_questions_are_equal(exported: Exported, shared_data: Path) -> None:
    rows = json.loads((shared_data / "vqa_rad" / "VQA_RAD Dataset Public.json").read_text())
    texts = [f"{row['question']}\n{row['answer']}" for row in rows[::3]]
    check_equal(exported.source, exported.ours, exported.theirs, texts)


def test_settings_survive(exported: Exported) -> None:
    source, ours, theirs = exported.source, exported.ours, exported.theirs
    for key in ("vocab_size", "bos_id", "eos_id", "pad_id", "image_token_id", "stop_ids", "adds_space"):
        assert getattr(ours, key) == getattr(source, key), key
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_id, ours.pad_id)
    assert theirs.image_token_id == source.image_token_id
    assert len(theirs) == source.vocab_size


def test_export_of_an_export_is_equal(small_sp: Tokenizer, tmp_path: Path) -> None:
    to_tokenizer_json(small_sp, tmp_path / "once")
    to_tokenizer_json(load_tokenizer(tmp_path / "once"), tmp_path / "twice")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "once" / name).read_text() == (tmp_path / "twice" / name).read_text()


@pytest.mark.parametrize("name", CHAT)
def test_chat_template_gives_our_prompt(name: str, small_sp: Tokenizer, tmp_path: Path) -> None:
    to_tokenizer_json(small_sp, tmp_path, TEMPLATES[name])
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    turns = (Turn(" <image>\nWhich organ is shown? ", "The brain "), Turn("Left or right?", "left"))
    sample = Sample("s", (1,), turns)
    messages = [
        {"role": role, "content": text} for t in turns for role, text in (("user", t.question), ("assistant", t.answer))
    ]
    for encoded, chat, more in (
        (encode_prompt(sample, TEMPLATES[name], small_sp), messages[:-1], True),
        (encode_sample(sample, TEMPLATES[name], small_sp), messages, False),
    ):
        expected = np.where(encoded.ids == PLACEHOLDER, small_sp.image_token_id, encoded.ids)
        words = theirs.apply_chat_template(chat, add_generation_prompt=more, tokenize=False)
        assert words == small_sp.decode(expected, skip_special=False)
        ids = theirs.apply_chat_template(chat, add_generation_prompt=more)["input_ids"]
        # Where special tokens stand at all borders the ids are equal too; elsewhere a merge may cross a border.
        if name == "llama3":
            assert ids == expected.tolist()


def test_chat_template_takes_parts(exported: Exported) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "Which organ?"}]
    words = exported.theirs.apply_chat_template(
        [{"role": "user", "content": content}],  # pyright: ignore[reportArgumentType]
        add_generation_prompt=True,
        tokenize=False,
    )
    prompt = encode_prompt(Sample("s", (1,), (Turn("Which organ?", ""),)), TEMPLATES["llama3"], exported.source)
    expected = np.where(prompt.ids == PLACEHOLDER, exported.source.image_token_id, prompt.ids)
    assert words == exported.source.decode(expected, skip_special=False)


def train(path: Path, **options: Any) -> SentencePieceTokenizer:
    """A Llama-2-like model (a space is put before each text) with other options."""
    words = ["the", "brain", "liver", "chest", "X-ray", "of", "a", "left", "lesion"]
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 12)) for _ in range(100)]
    settings: dict[str, Any] = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=file,
            minloglevel=2,
            **(settings | {"remove_extra_whitespaces": False, "vocab_size": 320} | options),
        )
    return SentencePieceTokenizer(path)


def test_model_that_adds_a_space(tmp_path: Path, strange_texts: list[str]) -> None:
    tokenizer = train(tmp_path / "tokenizer.model")
    assert tokenizer.adds_space and tokenizer.image_token_id == tokenizer.model.unk_id()
    to_tokenizer_json(tokenizer, tmp_path / "out")
    out = tmp_path / "out"
    check_equal(tokenizer, load_tokenizer(out), AutoTokenizer.from_pretrained(out), strange_texts)
    # The answer goes on after "ASSISTANT:", so its one space is not doubled.
    sample = Sample("s", (), (Turn("the brain", "left lesion"),))
    encoded = encode_sample(sample, TEMPLATES["llama"], tokenizer)
    answer = encoded.ids[encoded.supervised]
    assert answer.tolist() == [*tokenizer.encode("left lesion"), tokenizer.eos_id]
    assert tokenizer.decode(encoded.ids).endswith("USER: the brain ASSISTANT: left lesion")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram", "vocab_size": 280}, "not a BPE model"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises its text"),
        ({"user_defined_symbols": ["X-ray"]}, "user-defined symbols"),
    ],
)
def test_models_without_an_exact_counterpart_are_refused(options: dict, reason: str, tmp_path: Path) -> None:
    tokenizer = train(tmp_path / "tokenizer.model", **options)
    with pytest.raises(DataError, match=reason):
        to_tokenizer_json(tokenizer, tmp_path / "out")
