"""Checks of what a model reads: something to learn in each sample, image tokens that match, and what is cut."""

from collections.abc import Iterator
from dataclasses import replace

from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.lint.findings import Finding, found
from biomedgpt_jax.data.lint.material import Coded, Material, Part
from biomedgpt_jax.data.pair_encoding import EncodedPair, TokenLimits, encode_pair_prompt, encode_pairs
from biomedgpt_jax.data.pair_tasks import PairRules, Words
from biomedgpt_jax.data.prompts import IMAGE, Template
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.data.tasks import Overflow, encode_prompt, encode_sample, expand, expanded_length, truncate
from biomedgpt_jax.data.tokenizers import Tokenizer

_ALL = 10**6
_CUT = {"answer": "answer-cut", "question": "question-cut", "document": "document-cut", "image": "image-cut"}


def encodings(material: Material) -> Iterator[Finding]:
    """Nothing of a part that was not encoded."""
    for part in material.parts:
        if part.coded:
            yield from _of_part(part, material.skips and part.learned)


def code_conversation(
    sample: Sample,
    learned: bool,
    *,
    template: Template,
    tokenizer: Tokenizer,
    tokens_per_image: int,
    row_tokens: int,
    image_slots: int,
    overflow: Overflow,
) -> Coded:
    """Of a model that splices image features into its text. What is only asked is never cut."""
    placed = sum(turn.question.count(IMAGE) for turn in sample.turns) or len(sample.images)
    try:
        encoded = (encode_sample if learned else encode_prompt)(sample, template, tokenizer)
    except DataError:
        return _refused(sample, placed * tokens_per_image, len(sample.images) * tokens_per_image)
    tokens, supervised, _ = expand(encoded, tokens_per_image, tokenizer.image_token_id)
    lost: set[str] = set()
    if learned and (expanded_length(encoded, tokens_per_image) > row_tokens or len(encoded.images) > image_slots):
        lost.add("all")
        if overflow is Overflow.TRUNCATE:
            try:
                truncate(encoded, row_tokens, tokens_per_image)
                lost = {"answer"} if len(encoded.images) <= image_slots else {"image"}
            except DataError:
                lost = {"image"}
    in_row = int((tokens == tokenizer.image_token_id).sum())
    return Coded(True, int(supervised.sum()), in_row, len(encoded.images) * tokens_per_image, frozenset(lost))


def code_pairs(
    sample: Sample,
    learned: bool,
    *,
    rules: PairRules,
    tokenizer: BiomedGptTokens,
    limits: TokenLimits,
    overflow: Overflow,
) -> Coded:
    """Of an encoder-decoder: what it reads under its limits, held against the whole of it."""
    whole = replace(rules, words=Words(_ALL, _ALL))
    images = len(sample.images)
    try:
        full = _pairs(sample, learned, whole, tokenizer, TokenLimits(_ALL, _ALL), Overflow.ERROR)
    except DataError:
        return _refused(sample, images, images)
    try:
        read = _pairs(sample, learned, rules, tokenizer, limits, overflow)
    except DataError:
        return Coded(True, sum(len(pair.target) for pair in full), images, images, frozenset({"all"}))
    lost = {kind for one, other in zip(full, read, strict=True) for kind in _shorter(one, other)}
    return Coded(True, sum(len(pair.target) for pair in read), images, images, frozenset(lost))


def _pairs(
    sample: Sample,
    learned: bool,
    rules: PairRules,
    tokenizer: BiomedGptTokens,
    limits: TokenLimits,
    overflow: Overflow,
) -> list[EncodedPair]:
    if learned:
        return encode_pairs(sample, rules, tokenizer, limits, overflow)
    return [encode_pair_prompt(sample, rules, tokenizer, limits)]


def _shorter(full: EncodedPair, read: EncodedPair) -> Iterator[str]:
    if len(read.target) < len(full.target):
        yield "answer"
    if read.shortened and len(read.target) == len(full.target):
        yield "document"
    elif len(read.source) < len(full.source):
        yield "question"


def _refused(sample: Sample, image_tokens: int, image_features: int) -> Coded:
    nothing = not any(turn.answer.strip() for turn in sample.turns)
    return Coded(False, 0 if nothing else None, image_tokens, image_features)


def _of_part(part: Part, skips: bool) -> Iterator[Finding]:
    pairs = list(zip(part.samples, part.coded, strict=True))
    total = len(pairs)
    mismatched = [s.id for s, coded in pairs if coded.image_tokens != coded.image_features]
    unlearned = [s.id for s, coded in pairs if part.learned and coded.supervised == 0]
    named = {*mismatched, *unlearned, *(s.id for s in part.samples if any(not t.answer.strip() for t in s.turns))}
    unusable = [s.id for s, coded in pairs if not coded.usable and s.id not in named]
    long = [s.id for s, coded in pairs if "all" in coded.lost]
    yield from found("image-token-mismatch", part.name, mismatched, total, skips=skips)
    yield from found("no-supervised-tokens", part.name, unlearned, total, skips=skips)
    yield from found("unusable-sample", part.name, unusable, total, skips=skips)
    yield from found("too-long", part.name, long, total, skips=skips)
    for kind, code in _CUT.items():
        yield from found(code, part.name, [s.id for s, coded in pairs if kind in coded.lost], total)
