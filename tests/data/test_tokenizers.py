"""Ids of the real vocabularies, lossless small models, and files that are refused."""

import json
from pathlib import Path

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.tokenizer_export import to_tokenizer_json
from biomedgpt_jax.data.tokenizers import (
    SentencePieceTokenizer,
    Tokenizer,
    fingerprint,
    load_tokenizer,
    save_tokenizer,
    train_sentencepiece,
)


def test_llama3_ids(llama3: Tokenizer) -> None:
    question = "What abnormality is seen in this chest X-ray?"
    assert llama3.encode(question) == [3923, 35663, 488, 374, 3970, 304, 420, 15489, 1630, 30630, 30]
    assert llama3.encode("\nWhat")[0] == 198 and llama3.encode("\n\nWhat")[0] == 271
    assert (llama3.bos_id, llama3.eos_id, llama3.image_token_id, llama3.vocab_size) == (128000, 128001, 128002, 128256)
    assert set(llama3.stop_ids) == {128001, 128008, 128009}
    names = {"<|start_header_id|>": 128006, "<|end_header_id|>": 128007, "<|reserved_special_token_247|>": 128255}
    assert {name: llama3.special(name) for name in names} == names


@pytest.mark.parametrize("kind", ["llama3", "small_sp"])
def test_every_text_comes_back(kind: str, request: pytest.FixtureRequest, strange_texts: list[str]) -> None:
    tokenizer = request.getfixturevalue(kind)
    for text in strange_texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & set(tokenizer.special_ids.values())


@pytest.mark.parametrize("kind", ["llama3", "small_sp"])
def test_special_tokens_are_left_out_or_named(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    ids = [tokenizer.bos_id, *tokenizer.encode(" the liver"), tokenizer.special("<|eot_id|>"), *tokenizer.encode("x")]
    assert tokenizer.decode(ids) == " the liverx"
    assert tokenizer.decode(ids, skip_special=False) == "<|begin_of_text|> the liver<|eot_id|>x"
    with pytest.raises(DataError, match=r"no special token '<\|nonsense\|>'"):
        tokenizer.special("<|nonsense|>")


def test_trained_model(small_sp: SentencePieceTokenizer, tmp_path: Path) -> None:
    assert small_sp.vocab_size == 600
    assert (small_sp.bos_id, small_sp.eos_id, small_sp.pad_id) == (1, 2, 3)
    assert small_sp.stop_ids == (2, small_sp.special("<|eot_id|>"), small_sp.special("<|im_end|>"))
    assert small_sp.image_token_id == small_sp.special("<image>")
    assert small_sp.encode("<image>") != [small_sp.image_token_id]
    assert len(small_sp.encode(" cardiomegaly")) < 4
    again = train_sentencepiece(["the brain and the liver " * 9] * 9, tmp_path / "a.model", 300)
    same = train_sentencepiece(["the brain and the liver " * 9] * 9, tmp_path / "b.model", 300)
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
    assert fingerprint(again) == fingerprint(same) != fingerprint(small_sp)


def test_impossible_vocabulary_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no SentencePiece model of 100 pieces"):
        train_sentencepiece(["the brain"], tmp_path / "t.model", 100)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["llama3", "small_sp"])
def test_saved_tokenizer_is_the_same(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer = request.getfixturevalue(kind)
    save_tokenizer(tokenizer, tmp_path / "run")
    loaded = load_tokenizer(tmp_path / "run")
    assert type(loaded) is type(tokenizer) and fingerprint(loaded) == fingerprint(tokenizer)
    assert loaded.encode("The liver.") == tokenizer.encode("The liver.")


def test_image_token_that_the_settings_name(tmp_path: Path, small_sp: Tokenizer) -> None:
    to_tokenizer_json(small_sp, tmp_path)
    file = tmp_path / "tokenizer_config.json"
    settings = {**json.loads(file.read_text()), "extra_special_tokens": {"image_token": "<eos>"}}
    file.write_text(json.dumps(settings))
    assert load_tokenizer(tmp_path).image_token_id == small_sp.special("<eos>") != small_sp.image_token_id


def test_image_token_can_be_named(llama3_path: Path) -> None:
    chosen = load_tokenizer(llama3_path, image_token="<|reserved_special_token_5|>")
    assert chosen.image_token_id == chosen.special("<|reserved_special_token_5|>") == 128013


def test_bad_paths_and_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no tokenizer: looked for tokenizer.json, tokenizer.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(DataError, match="neither a tiktoken nor a SentencePiece model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 5\n")
    with pytest.raises(DataError, match="file is damaged"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg\n")
    with pytest.raises(DataError, match="line 2: expected 'base64 rank'"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer.json"):
        load_tokenizer(tmp_path)
