"""Checks of the texts of a split: empty and repeated ones, and options that give the answer away."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from biomedgpt_jax.data.lint.findings import Finding, found
from biomedgpt_jax.data.lint.material import Material, Part, answer_text, plain
from biomedgpt_jax.data.source import Sample

FEW = 30  # questions of a kind about which nothing is said
MAJORITY = 0.8
# A place is suspicious when it holds the right option so much more often than chance would have it.
STANDARD_ERRORS = 4.0


def empty_answers(material: Material) -> Iterator[Finding]:
    for part in material.parts:
        empty = [s.id for s in part.samples if not s.turns or any(not turn.answer.strip() for turn in s.turns)]
        yield from found("empty-answer", part.name, empty, len(part.samples), skips=material.skips and part.learned)


def repeated_samples(material: Material) -> Iterator[Finding]:
    """Within a split: the same once more, and the same question with another answer."""
    for part in material.parts:
        answers: dict[object, set[str]] = defaultdict(set)
        again, other = [], []
        for sample, asked in zip(part.samples, part.asked, strict=True):
            answer = answer_text(sample)
            if answer in answers[asked]:
                again.append(sample.id)
            elif answers[asked]:
                other.append(sample.id)
            answers[asked].add(answer)
        yield from found("duplicate-sample", part.name, again, len(part.samples))
        yield from found("two-answers", part.name, other, len(part.samples))


def options(material: Material) -> Iterator[Finding]:
    for part in material.parts:
        yield from _majorities(part)
        yield from _places(part)


def _majorities(part: Part) -> Iterator[Finding]:
    """One answer to nearly all closed questions of a task."""
    closed: dict[str, list[Sample]] = defaultdict(list)
    for sample in part.samples:
        if _options(sample) or sample.meta.get("answer_type") == "closed":
            closed[str(sample.meta.get("task", ""))].append(sample)
    same: list[str] = []
    for samples in closed.values():
        if len(samples) >= FEW:
            (answer, count), *_ = Counter(map(answer_text, samples)).most_common(1)
            same += [s.id for s in samples if answer_text(s) == answer] if count > MAJORITY * len(samples) else []
    yield from found("unbalanced-answers", part.name, same, sum(map(len, closed.values())))


def _places(part: Part) -> Iterator[Finding]:
    """Options that repeat or miss the answer, and a place in which the right one stands too often."""
    repeated, missing = [], []
    right: dict[int, Counter[int]] = defaultdict(Counter)
    first: dict[tuple[int, int], list[str]] = defaultdict(list)
    orders: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for sample in part.samples:
        given = _options(sample)
        if not given or len(sample.turns) != 1:
            continue
        answer = answer_text(sample)
        if len(set(given)) < len(given):
            repeated.append(sample.id)
        if answer not in given:
            missing.append(sample.id)
            continue
        orders[len(given)].add(given)
        right[len(given)][given.index(answer)] += 1
        first[len(given), given.index(answer)].append(sample.id)
    total = len(part.samples)
    yield from found("repeated-option", part.name, repeated, total)
    yield from found("answer-no-option", part.name, missing, total)
    for size, counts in right.items():
        # Where all questions have the same options, as classes have, their order says nothing.
        place, count = counts.most_common(1)[0]
        asked, chance = counts.total(), 1 / size
        limit = asked * chance + STANDARD_ERRORS * (asked * chance * (1 - chance)) ** 0.5
        if len(orders[size]) > size and asked >= FEW and count > limit:
            yield from found("unbalanced-options", part.name, first[size, place], asked)


def _options(sample: Sample) -> tuple[str, ...]:
    given = sample.meta.get("choices")
    return tuple(plain(str(each)) for each in given) if isinstance(given, list) else ()
