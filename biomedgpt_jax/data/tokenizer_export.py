"""Any of our tokenizers as a Hugging Face folder: tokenizer.json with equal ids, its settings, its chat template."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # pyright: ignore[reportAttributeAccessIssue]
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import IMAGE, Kind, Span, Template
from biomedgpt_jax.data.tokenizers import (
    LLAMA3_PATTERN,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    Tokenizer,
)

SPACE = "▁"  # SentencePiece writes a space so
BPE = 2  # TrainerSpec.model_type of SentencePiece


def to_tokenizer_json(tokenizer: Tokenizer, folder: str | Path, template: Template | None = None) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`.

    With `template` also chat_template.jinja. Raises DataError for a model that has no exact counterpart (SentencePiece
    unigram, or one that normalises its text).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    match tokenizer:
        case HuggingFaceTokenizer():
            known = _copied(tokenizer, folder)
        case SentencePieceTokenizer():
            _from_sentencepiece(tokenizer).save(str(folder / "tokenizer.json"))
            known = {"unk_token": tokenizer.model.IdToPiece(tokenizer.model.unk_id())}
        case TiktokenTokenizer():
            _from_tiktoken(tokenizer).save(str(folder / "tokenizer.json"))
            known = {}
        case _:
            raise DataError(f"a {type(tokenizer).__name__} can't be written as tokenizer.json")
    names = {i: name for name, i in tokenizer.special_ids.items()}
    tokens = {"eos_token": names[tokenizer.eos_id], "pad_token": names[tokenizer.pad_id]}
    if tokenizer.bos_id is not None:
        tokens["bos_token"] = names[tokenizer.bos_id]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **known,
        **tokens,
        "extra_special_tokens": {"image_token": names[tokenizer.image_token_id]},
    }
    if template is not None:
        settings.pop("chat_template", None)
        (folder / "chat_template.jinja").write_text(chat_template(template, tokenizer))
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", {k: v for k, v in settings.items() if k in (*tokens, "unk_token")})


def chat_template(template: Template, tokenizer: Tokenizer) -> str:
    """The template in Jinja, as `apply_chat_template` takes it.

    A content is a string, in which `<image>` places an image, or a list of parts, where an image part stands for
    the image and a newline, as unplaced images do in training.
    """
    names = {i: name for name, i in tokenizer.special_ids.items()}
    image = json.dumps(names[tokenizer.image_token_id])

    def written(spans: tuple[Span, ...]) -> str:
        words = "".join(names[tokenizer.eos_id] if s.kind is Kind.END else s.text for s in spans)
        return "{{ " + json.dumps(words) + " }}" if words else ""

    question = "{{ body(message['content']) }}" if template.keep_questions else "{{ images(message['content']) }}"
    return (
        "{%- macro parts(content, words) -%}"
        "{%- if content is string -%}"
        "{{ content.replace('"
        + IMAGE
        + "', "
        + image
        + ") if words else "
        + image
        + " * content.count('"
        + IMAGE
        + "') }}"
        "{%- else -%}{%- for part in content -%}"
        "{%- if part['type'] == 'image' -%}{{ " + image + ' + ("\\n" if words else "") }}'
        "{%- elif words -%}{{ part['text'] }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
        "{%- macro body(content) -%}{{ parts(content, true) | trim }}{%- endmacro -%}"
        "{%- macro images(content) -%}{{ parts(content, false) }}{%- endmacro -%}"
        + ("{{ " + json.dumps(names[tokenizer.bos_id]) + " }}" if tokenizer.bos_id is not None else "")
        + written(template.opening)
        + "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
        + written(template.before_question)
        + question
        + "{%- elif message['role'] == 'assistant' -%}"
        + written(template.before_answer)
        + "{{ "
        + json.dumps(template.gap)
        + " + body(message['content']) }}"
        + written(template.after_answer)
        + "{%- endif -%}{%- endfor -%}"
        + "{%- if add_generation_prompt -%}"
        + written(template.before_answer)
        + "{%- endif -%}"
    )


def _copied(tokenizer: HuggingFaceTokenizer, folder: Path) -> dict:
    for file in tokenizer.files:
        shutil.copyfile(file, folder / file.name)
    config = folder / "tokenizer_config.json"
    return json.loads(config.read_text()) if config.is_file() else {}


def _from_sentencepiece(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    model = tokenizer.model
    _check_sentencepiece(tokenizer)
    size = model.GetPieceSize()
    vocab = {model.IdToPiece(i): i for i in range(size)}
    plain = [i for i in range(size) if not (model.IsControl(i) or model.IsUnknown(i) or model.IsByte(i))]
    ranked = sorted(plain, key=lambda i: (-model.GetScore(i), i))
    mergeable = {model.IdToPiece(i): i for i in plain}
    merges = [pair for i in ranked for pair in _halves(model.IdToPiece(i), mergeable)]
    unk = model.IdToPiece(model.unk_id())
    out = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    ending: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if tokenizer.adds_space:
        steps.insert(0, normalizers.Prepend(SPACE))
        ending.append(decoders.Strip(" ", 1, 0))
    out.normalizer = normalizers.Sequence(steps)
    out.decoder = decoders.Sequence(ending)
    return _with_special(out, tokenizer)


def _from_tiktoken(tokenizer: TiktokenTokenizer) -> tokenizers.Tokenizer:
    letters = _byte_letters()
    words = {rank: "".join(letters[b] for b in token) for token, rank in tokenizer.ranks.items()}
    vocab = {word: rank for rank, word in words.items()}
    merges = [pair for rank in sorted(words) for pair in _halves(words[rank], vocab)]
    # As in tiktoken, a whole piece that is a token needs no merges.
    out = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    out.decoder = decoders.ByteLevel()
    return _with_special(out, tokenizer)


def _with_special(out: tokenizers.Tokenizer, tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Adds the special tokens, which must keep their ids, and the rule that a text starts with bos."""
    ordered = sorted(tokenizer.special_ids.items(), key=lambda item: item[1])
    out.add_special_tokens([AddedToken(name, normalized=False, special=True) for name, _ in ordered])
    moved = [name for name, i in ordered if out.token_to_id(name) != i]
    if moved:
        raise DataError(f"tokenizer {tokenizer.files[0]}: special tokens {moved[:3]} would change their ids")
    if tokenizer.bos_id is not None:
        bos = next(name for name, i in ordered if i == tokenizer.bos_id)
        out.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
        )
    return out


def _halves(word: str, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs of tokens that a merge may join to `word`, by id."""
    cuts = [(word[:i], word[i:]) for i in range(1, len(word))]
    return sorted(
        (pair for pair in cuts if pair[0] in vocab and pair[1] in vocab), key=lambda p: (vocab[p[0]], vocab[p[1]])
    )


def _byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in byte-level BPE files: itself if printable, else 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (b for b in range(256) if b not in printable)
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def _check_sentencepiece(tokenizer: SentencePieceTokenizer) -> None:
    proto = ModelProto.FromString(tokenizer.model.serialized_model_proto())
    rules = proto.normalizer_spec
    problems = {
        "it is not a BPE model": proto.trainer_spec.model_type != BPE,
        "it normalises its text": bool(rules.precompiled_charsmap) or rules.remove_extra_whitespaces,
        "it has no byte fallback": not proto.trainer_spec.byte_fallback,
        "its space is not written as U+2581": not rules.escape_whitespaces,
        "it has user-defined symbols": any(piece.type == piece.USER_DEFINED for piece in proto.pieces),
    }
    found = [problem for problem, applies in problems.items() if applies]
    if found:
        raise DataError(f"tokenizer {tokenizer.files[0]} has no exact tokenizer.json: {' and '.join(found)}")


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
