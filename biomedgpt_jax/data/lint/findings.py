"""What lint can find, each under a stable code, and a finding: how often, where, in which samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

SHOWN = 5  # ids in a finding


class Severity(Enum):
    ERROR = "error"  # a training refuses, unless the code is allowed
    WARNING = "warning"


@dataclass(frozen=True)
class Rule:
    """What a code means and what to do. A `skippable` error is a warning where such samples are left out."""

    severity: Severity
    what: str
    do: str
    skippable: bool = False


@dataclass(frozen=True)
class Finding:
    """`count` of the `total` samples (or images) of the split `where`; `ids` are the first few samples, or fields."""

    code: str
    severity: Severity
    where: str
    count: int
    total: int
    ids: tuple[str, ...]


_ERROR, _WARNING = Severity.ERROR, Severity.WARNING
RULES: Mapping[str, Rule] = {
    "empty-answer": Rule(_ERROR, "an answer is empty", "repair or remove the rows", skippable=True),
    "no-supervised-tokens": Rule(_ERROR, "no token would be learned", "repair or remove the rows", skippable=True),
    "image-token-mismatch": Rule(
        _ERROR, "image tokens and image features differ in number", "place each image once", skippable=True
    ),
    "unusable-sample": Rule(
        _ERROR, "the model cannot be asked this sample", "see its message in train", skippable=True
    ),
    "too-long": Rule(_ERROR, "longer than a row", "allow longer rows, or set on_overflow", skippable=True),
    "image-cut": Rule(_ERROR, "an image would be cut to fit", "allow longer rows or more images"),
    "answer-cut": Rule(_WARNING, "the end of an answer is cut", "raise the limits of the configuration"),
    "question-cut": Rule(_WARNING, "the end of a question is cut", "raise the limits of the configuration"),
    "document-cut": Rule(_WARNING, "the end of a document is cut", "raise the limits of the configuration"),
    "duplicate-sample": Rule(_WARNING, "the same images, question and answer again", "remove it, or mean it"),
    "two-answers": Rule(_WARNING, "the same images and question, another answer", "see which one is right"),
    "unbalanced-answers": Rule(
        _WARNING, "one answer to closed questions is more than 80%", "compare with the majority"
    ),
    "unbalanced-options": Rule(_WARNING, "the right option often stands in one place", "shuffle the options"),
    "repeated-option": Rule(_WARNING, "an option stands twice", "repair the options"),
    "answer-no-option": Rule(_WARNING, "the answer is none of the options", "repair the options"),
    "near-texts": Rule(_WARNING, "most of its text stands in an earlier sample", "remove it, or mean it"),
    "unreadable-image": Rule(_ERROR, "an image cannot be decoded", "prepare the data again"),
    "constant-image": Rule(_WARNING, "an image of one colour", "see whether its file is damaged"),
    "image-metadata": Rule(_WARNING, "an image file carries text or a place", "strip EXIF and text chunks"),
    "near-images": Rule(_WARNING, "nearly the same image as an earlier one", "remove it, or mean it"),
    "test-sample-in-train": Rule(
        _ERROR, "the very images, question and answer are trained on", "remove it from training"
    ),
    "test-image-in-train": Rule(_WARNING, "an image is trained on too", "split by image, or say so with the scores"),
    "test-image-near-train": Rule(_WARNING, "nearly the same image is trained on", "split by patient, or say so"),
    "test-text-near-train": Rule(_WARNING, "most of its text is trained on", "remove it from training, or say so"),
    "test-answer-in-list": Rule(
        _ERROR, "the closed list has its answer, training has not", "make the list of training answers alone"
    ),
    "answer-not-in-list": Rule(_WARNING, "its answer is not in the closed list", "it can only be answered wrong"),
    "metadata-hint": Rule(_WARNING, "truth about the image is told with the question", "leave data.hint empty"),
    "patient-in-two-splits": Rule(_WARNING, "its patient or case is trained on too", "split by patient"),
    "phi-name": Rule(_WARNING, "a title with a name, or a named patient", "remove the names"),
    "phi-date": Rule(_WARNING, "a whole date", "remove or shift the dates"),
    "phi-record-number": Rule(_WARNING, "a record number", "remove the numbers"),
    "phi-phone": Rule(_WARNING, "a phone number", "remove the numbers"),
    "dicom-identifiers": Rule(
        _WARNING, "the raw DICOM file identifies (its fields beside)", "prepared images lack them; mind the raw files"
    ),
    "phi-address": Rule(_WARNING, "an e-mail address", "remove the addresses"),
}


def found(
    code: str, where: str, ids: Sequence[str], total: int, *, skips: bool = False, count: int | None = None
) -> list[Finding]:
    """A list of one finding, or of none where there are no `ids`. `skips`: such samples of it are left out."""
    if not ids:
        return []
    rule = RULES[code]
    severity = _WARNING if rule.skippable and skips else rule.severity
    shown = tuple(dict.fromkeys(ids))
    return [Finding(code, severity, where, len(ids) if count is None else count, total, shown[:SHOWN])]


def refused(findings: Sequence[Finding], allowed: Sequence[str]) -> list[Finding]:
    """The errors that nobody allowed."""
    return [each for each in findings if each.severity is _ERROR and each.code not in allowed]
