"""Checks for protected health information, by pattern and by DICOM header. What was matched is never kept."""

import re
from collections.abc import Iterator, Mapping

from biomedgpt_jax.data.lint.findings import Finding, found
from biomedgpt_jax.data.lint.material import Material, documents
from biomedgpt_jax.data.source import Sample

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
PATTERNS: Mapping[str, re.Pattern[str]] = {
    "phi-name": re.compile(
        r"\b(?:Mrs?|Ms|Miss|Mx|Dr|Prof)\b\.?[ \t]+[A-Z][a-z]+|\b(?i:patient(?:'s)? name|name of patient)\s*:\s*\w"
    ),
    "phi-date": re.compile(
        r"(?<![\d/.-])(?:\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)\d\d|(?:19|20)\d\d[/.-]\d{1,2}[/.-]\d{1,2}|\d{1,2}/\d{1,2}/\d\d)"
        rf"(?![\d/-])|\b\d{{1,2}}(?:st|nd|rd|th)?\s+{_MONTH}\s+(?:19|20)\d\d\b"
        rf"|\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+(?:19|20)\d\d\b",
        re.IGNORECASE,
    ),
    "phi-record-number": re.compile(
        r"\b(?:mrn|medical record(?: (?:number|no))?|(?:patient|hospital) (?:id|number|no)|accession(?: (?:number|no))?"
        r"|social security(?: number)?|ssn)\b[\s.:#-]*[a-z]{0,3}\d{4,}|(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])",
        re.IGNORECASE,
    ),
    "phi-phone": re.compile(
        r"(?<![\d.-])(?:\+?1[-. ]?)?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\d.-]*\d)"
        r"|(?<!\d)\+\d{1,3}(?:[ -]?\d{2,4}){3,5}(?!\d)"
    ),
    "phi-address": re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", re.IGNORECASE),
}


def protected_information(material: Material) -> Iterator[Finding]:
    for part in material.parts:
        texts = [(sample.id, _text(sample)) for sample in part.samples]
        for code, pattern in PATTERNS.items():
            hit = [sample_id for sample_id, text in texts if pattern.search(text)]
            yield from found(code, part.name, hit, len(texts))


def raw_headers(material: Material) -> Iterator[Finding]:
    """What `prepare` counted in the headers of DICOM files."""
    for part in material.parts:
        info = part.split.manifest.splits[part.split.split]
        fields = sorted(info.identifying, key=lambda field: (-info.identifying[field], field))
        named = [f"{field} {info.identifying[field]}" for field in fields]
        yield from found("dicom-identifiers", part.name, named, info.images, count=info.identified)


def _text(sample: Sample) -> str:
    """All that a model reads or writes, and what stands beside it."""
    turns = [text for turn in sample.turns for text in (turn.question, turn.answer)]
    return "\n".join([*turns, *documents(sample)])
