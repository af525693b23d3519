"""A pair of texts to token ids under token limits; a document is cut inside, so that its prompt stays whole."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_tasks import Document, PairRules, PairText, Prefix, pair_texts
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.data.tasks import Overflow

ANSWER_ROOM = 8  # tokens of an answer for which a document that the decoder repeats leaves room


@dataclass(frozen=True)
class TokenLimits:
    """`source` with its <s> and </s>; `target` is what the decoder reads: <s>, what is given, the target but its
    last token. `answer`: of the target alone, without its </s>; 0: no limit of its own.
    """

    source: int
    target: int
    answer: int = 0

    def hold(self, pair: "EncodedPair") -> bool:
        """Whether a pair is within them."""
        return (
            len(pair.source) <= self.source
            and pair.decoder_length <= self.target
            and (not self.answer or len(pair.target) <= self.answer + 1)
        )


@dataclass(frozen=True)
class EncodedPair:
    """One row: `source` int32 [t] from <s> to </s>, `given` int32 [p] what the decoder is told, `target` int32 [u]
    what it learns. `image` is a record number, or -1. `weight` is the row's confidence.
    """

    id: str
    source: np.ndarray
    given: np.ndarray
    target: np.ndarray
    image: int = -1
    weight: float = 1.0
    shortened: bool = False  # its document was cut
    hinted: bool = False  # metadata of the image is in its source
    hole: bool = False  # the middle of the image is hidden
    codes: bool = False  # the target is image codes
    extra: bool = False  # of the second half of a pre-training step
    # uint8 [h w 3] -> what the model sees of it, in its size; None: the whole picture as the run reads pictures
    view: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def decoder_length(self) -> int:
        """Positions of the decoder: <s>, what is given, and the target but its last token."""
        return len(self.given) + max(1, len(self.target))


def encode_pairs(
    sample: Sample, rules: PairRules, tokenizer: BiomedGptTokens, limits: TokenLimits, overflow: Overflow
) -> list[EncodedPair]:
    """All pairs of a sample, in the order of its turns.

    Raises:
        DataError: the sample breaks a rule, or a pair is over the limits and `overflow` is not to truncate; it
            names the sample.
    """
    image = _only_image(sample)
    weight = confidence(sample)
    pairs = []
    for number, text in enumerate(pair_texts(sample, rules), 1):
        if not text.target.strip():
            raise DataError(f"sample {sample.name}: the target of turn {number} is empty")
        pairs.append(replace(_encode(sample, text, tokenizer, limits), image=image, weight=weight))
    if overflow is Overflow.TRUNCATE:
        return [_truncate(pair, tokenizer, limits) for pair in pairs]
    for pair in pairs:
        if not limits.hold(pair):
            of_answer = f" and {limits.answer} of an answer, which has {len(pair.target) - 1}" if limits.answer else ""
            raise DataError(
                f"sample {sample.name}: {len(pair.source)} source and {pair.decoder_length} decoder tokens, but the "
                f"limits are {limits.source} and {limits.target}{of_answer}"
            )
    return pairs


def encode_pair_prompt(
    sample: Sample, rules: PairRules, tokenizer: BiomedGptTokens, limits: TokenLimits
) -> EncodedPair:
    """The last turn without its target, which may be empty, for answering. DataError as above; a prompt is never
    truncated, but its document may be cut.
    """
    text = pair_texts(sample, rules, learned=False)[-1]
    pair = replace(_encode(sample, text, tokenizer, limits), target=_ids([]), image=_only_image(sample))
    if not limits.hold(pair):
        raise DataError(
            f"sample {sample.name}: its prompt has {len(pair.source)} source and {pair.decoder_length} decoder tokens, "
            f"but the limits are {limits.source} and {limits.target}"
        )
    return pair


def answer_ids(text: str, tokenizer: BiomedGptTokens) -> tuple[int, ...]:
    """An answer as the tasks with a list of answers learn it: with a space in front and </s> behind."""
    return (*tokenizer.encode(" " + text), tokenizer.eos_id)


def confidence(sample: Sample) -> float:
    """By which the losses of its tokens are multiplied; DataError if it is no number above 0."""
    value = sample.meta.get("confidence", 1.0)
    if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise DataError(f"sample {sample.name}: meta.confidence is {value!r}, expected a number above 0")
    return float(value)


def _encode(sample: Sample, text: PairText, tokenizer: BiomedGptTokens, limits: TokenLimits) -> EncodedPair:
    pieces = [tokenizer.encode(piece.text if isinstance(piece, Document) else piece) for piece in text.source]
    ending = [] if text.prefix is Prefix.SOURCE else [tokenizer.eos_id]
    target = [*tokenizer.encode(text.target), *ending]
    # Room between <s> and </s>; where the decoder repeats the source, it must have room too. Where a document is cut
    # does not depend on the answer, which would tell its length.
    room = min(limits.source, limits.source if text.prefix is Prefix.NOTHING else limits.target - ANSWER_ROOM) - 2
    cut = _cut_documents(pieces, [isinstance(piece, Document) for piece in text.source], room)
    body = [token for piece in pieces for token in piece]
    source = [tokenizer.bos_id, *body, tokenizer.eos_id]
    given = {Prefix.NOTHING: [], Prefix.QUESTION: body, Prefix.SOURCE: source[1:]}[text.prefix]
    return EncodedPair(sample.id, _ids(source), _ids(given), _ids(target), shortened=cut, hinted=text.hinted)


def _cut_documents(pieces: list[list[int]], is_document: list[bool], room: int) -> bool:
    """Takes the ends of the longest documents off until all pieces fit; whether it did."""
    over = sum(map(len, pieces)) - room
    documents = [piece for piece, document in zip(pieces, is_document, strict=True) if document]
    cut = False
    while over > 0 and documents and len(longest := max(documents, key=len)) > 1:
        others = max((len(piece) for piece in documents if piece is not longest), default=0)
        taken = min(over, max(1, len(longest) - max(1, others)))
        del longest[len(longest) - taken :]
        over -= taken
        cut = True
    return cut


def _truncate(pair: EncodedPair, tokenizer: BiomedGptTokens, limits: TokenLimits) -> EncodedPair:
    """Cuts the end of a source and of a target, both of which keep their </s>."""
    if limits.hold(pair):
        return pair
    source = _keep_end(pair.source, limits.source)
    room = limits.target - len(pair.given)
    if room < 2:
        raise DataError(
            f"sample {pair.id}: the decoder is given {len(pair.given)} tokens; of {limits.target} none is left to learn"
        )
    most = min(room, limits.answer + 1) if limits.answer else room
    return replace(pair, source=source, target=_keep_end(pair.target, most), shortened=True)


def _keep_end(ids: np.ndarray, limit: int) -> np.ndarray:
    return ids if len(ids) <= limit else np.concatenate([ids[: limit - 1], ids[-1:]])


def _only_image(sample: Sample) -> int:
    if len(sample.images) > 1:
        raise DataError(f"sample {sample.name}: {len(sample.images)} images, but this model reads one")
    return sample.images[0] if sample.images else -1


def _ids(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, np.int32)
