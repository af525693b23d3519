"""Checks of what training knows of the splits that are scored: samples, images, texts, answers, patients."""

from collections.abc import Iterator

import numpy as np

from biomedgpt_jax.data.lint.findings import Finding, found
from biomedgpt_jax.data.lint.images import shown_by
from biomedgpt_jax.data.lint.likeness import near
from biomedgpt_jax.data.lint.material import Material, Part, answer_text, plain
from biomedgpt_jax.data.lint.overlap import covered, own_text, runs, seen_earlier
from biomedgpt_jax.data.source import Sample

# Fields of meta that name a patient or a case; our readers write the first.
PATIENT = ("case", "patient", "patient_id", "patientid", "subject", "subject_id", "case_id", "study_id", "mrn")


def same_samples(material: Material) -> Iterator[Finding]:
    """Samples, and images, that are byte for byte the same."""
    learned = {
        (asked, answer_text(sample))
        for part in material.learned
        for sample, asked in zip(part.samples, part.asked, strict=True)
    }
    for part in material.scored:
        whole = [
            sample.id
            for sample, asked in zip(part.samples, part.asked, strict=True)
            if (asked, answer_text(sample)) in learned
        ]
        shared = _same_bytes(part, material.learned)
        yield from found("test-sample-in-train", part.name, whole, len(part.samples))
        yield from found("test-image-in-train", part.name, shown_by(part, shared), len(shared), count=int(shared.sum()))


def near_images(material: Material) -> Iterator[Finding]:
    """Images of scored splits that are nearly the same as learned ones, the same bytes left out."""
    for part in material.scored:
        if part.pictures is None:
            continue
        alike = np.zeros(len(part.pictures.small), bool)
        for other in material.learned:
            if other.pictures is not None:
                alike |= near(part.pictures, other.pictures) >= 0
        alike &= ~_same_bytes(part, material.learned)
        yield from found("test-image-near-train", part.name, shown_by(part, alike), len(alike), count=int(alike.sum()))


def near_texts(material: Material) -> Iterator[Finding]:
    """Texts that mostly stand in earlier ones of their split, or in training."""
    coded = {id(part): runs([own_text(sample) for sample in part.samples]) for part in material.parts}
    known = np.unique(np.concatenate([np.zeros(0, np.uint64), *(coded[id(part)][0] for part in material.learned)]))
    for part in material.parts:
        hashes, starts = coded[id(part)]
        again = np.flatnonzero(covered(seen_earlier(hashes, starts), starts)).tolist()
        yield from found("near-texts", part.name, part.ids(again), len(part.samples))
        if not part.learned:
            leaked = np.flatnonzero(covered(np.isin(hashes, known), starts)).tolist()
            yield from found("test-text-near-train", part.name, part.ids(leaked), len(part.samples))


def answer_lists(material: Material) -> Iterator[Finding]:
    """A closed list that knows answers which only a scored split has, or that lacks some."""
    if not material.answers:
        return
    listed = {plain(answer) for answer in material.answers}
    trained = {_answer(sample) for part in material.learned for sample in part.samples}
    for part in material.scored:
        leaked = [s.id for s in part.samples if _answer(s) in listed - trained]
        missing = [s.id for s in part.samples if _answer(s) not in listed]
        yield from found("test-answer-in-list", part.name, leaked, len(part.samples))
        yield from found("answer-not-in-list", part.name, missing, len(part.samples))


def hints(material: Material) -> Iterator[Finding]:
    if material.hint:
        for part in material.parts:
            told = [sample.id for sample in part.samples if str(sample.meta.get(material.hint) or "").strip()]
            yield from found("metadata-hint", part.name, told, len(part.samples))


def patients(material: Material) -> Iterator[Finding]:
    """A number means the same patient in data of one source alone."""
    trained = {who for part in material.learned for sample in part.samples for who in patients_of(part, sample)}
    for part in material.scored:
        shared = [s.id for s in part.samples if trained.intersection(patients_of(part, s))]
        yield from found("patient-in-two-splits", part.name, shared, len(part.samples))


def patients_of(part: Part, sample: Sample) -> list[tuple[str, str, str]]:
    """Whom a sample is about: source, field and value, because a number means one patient in its source alone."""
    told = {str(key).lower(): value for key, value in sample.meta.items()}
    return [(part.split.manifest.source, key, str(told[key])) for key in PATIENT if told.get(key) not in (None, "")]


def _answer(sample: Sample) -> str:
    return plain(sample.turns[-1].answer) if sample.turns else ""


def _same_bytes(part: Part, learned: list[Part]) -> np.ndarray:
    """Images of a part that training has byte for byte, bool [n]."""
    shown = {image for other in learned for images in other.image_keys for image in images}
    same = np.zeros(part.split.num_images, bool)
    for sample, images in zip(part.samples, part.image_keys, strict=True):
        for record, image in zip(sample.images, images, strict=False):
            same[record] |= image in shown
    return same
