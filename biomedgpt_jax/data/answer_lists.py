"""The closed lists of answers that a task may give: from the training split, or from a file."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.encoded_pairs import EncodedPairs
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_batches import EOS
from biomedgpt_jax.data.pair_encoding import answer_ids
from biomedgpt_jax.data.rows import spaces
from biomedgpt_jax.data.source import Sample


def training_answers(parts: Sequence[EncodedPairs]) -> list[tuple[int, ...]]:
    """All different targets as ids that end with </s>, in an order that depends on nothing else.

    Whoever passes a split that is scored on makes its answers known to the model: pass training splits alone.
    """
    targets = {target for part in parts for target in part.targets()}
    return sorted({target if target[-1] == EOS else (*target, EOS) for target in targets})


def count_unlisted(
    samples: Iterable[Sample], answers: Iterable[tuple[int, ...]], tokenizer: BiomedGptTokens, lower: bool
) -> int:
    """Samples whose last answer is none of the list, so that no model held to the list can give it."""
    listed = set(answers)
    truths = (spaces(sample.turns[-1].answer) for sample in samples)
    return sum(answer_ids(truth.lower() if lower else truth, tokenizer) not in listed for truth in truths)


def listed_answers(path: str | Path, tokenizer: BiomedGptTokens, lower: bool) -> list[tuple[int, ...]]:
    """The answers in a UTF-8 file, one per line, as ids that end with </s>. DataError for an empty or double line."""
    path, found = Path(path), dict[tuple[int, ...], int]()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of answers ({error})") from error
    for row, line in enumerate(lines, 1):
        answer = spaces(line.lower() if lower else line)
        ids = answer_ids(answer, tokenizer)
        if not answer or ids in found:
            fault = f"the same as line {found[ids]}" if answer else "empty"
            raise DataError(f"{path}, line {row}: {fault}; expected one answer per line, each once")
        found[ids] = row
    if not found:
        raise DataError(f"{path} holds no answer; expected one per line")
    return list(found)
