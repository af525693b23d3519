"""The checks of prepared data as verbs run them, and their findings, kept in a run's folder as lint.json.

A new run does those of AT_START, which read the samples but decode no image and encode no text (of each sample that
cannot be encoded, the data pipeline itself tells), unless `biomedgpt lint` left findings about the same data.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from absl import flags

from biomedgpt_jax.convert.processing import LINT
from biomedgpt_jax.core.config_json import from_json, to_json
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.processes import leader_first
from biomedgpt_jax.data.lint import encoding, images, leaks, privacy, texts
from biomedgpt_jax.data.lint.findings import RULES, Finding, refused
from biomedgpt_jax.data.lint.material import Material, Part
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import Overflow
from biomedgpt_jax.verbs.command_line import Config, suggest
from biomedgpt_jax.verbs.family import Family, Spec
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.training_data import overflow_of, splits

UNKNOWN = "unknown"
VERSION = 2  # raise it when the same data would have other findings
_ASIDE = ("allow", "paths", "weights", "workers", "threads", "cache_images")  # settings that change no sample
Check = Callable[[Material], Iterator[Finding]]
AT_START: Sequence[Check] = [
    texts.empty_answers,
    texts.repeated_samples,
    texts.options,
    leaks.same_samples,
    leaks.answer_lists,
    leaks.hints,
    leaks.patients,
    privacy.protected_information,
    privacy.raw_headers,
]
OTHERS: Sequence[Check] = [encoding.encodings, leaks.near_texts, images.pictures, leaks.near_images]


@dataclass(frozen=True)
class Lint:
    """`key` is a hash of the data and of how it is read; `samples` counts those of each split. Not `whole`: the checks
    at the start of a run alone. `allowed` are the errors with which a run went on, its earlier stages' included.
    """

    key: str
    whole: bool
    samples: dict[str, int]
    findings: tuple[Finding, ...]
    allowed: tuple[str, ...]


def define_allow(values: flags.FlagValues) -> None:
    flags.DEFINE_list("allow", [], "Codes of errors in the data to go on with; scores say them.", flag_values=values)


def take_allowed(values: flags.FlagValues, config: Config) -> None:
    """Adds --allow to config.data.allow, where checkpoints keep it. Raises UsageError for a code that is none."""
    config.data.allow = tuple(dict.fromkeys((*config.data.allow, *values.allow)))
    for code in config.data.allow:
        if code not in RULES:
            raise UsageError(f"--allow={code}: lint has no such code; it has {', '.join(RULES)}.{suggest(code, RULES)}")


def whole_lint(config: Config, family: Family, spec: Spec, workdir: Path, advance: Advance) -> Lint:
    """All checks, on all that the configuration trains on and scores."""
    parts = _parts(config)
    code = family.coder(config, spec, workdir)
    for part in parts:
        if code:
            for number, sample in enumerate(part.samples, 1):
                part.coded.append(code(sample, part.learned))
                advance(f"encode {part.name}", number, len(part.samples))
        name = f"images of {part.name}"
        part.pictures = images.look(
            part.split, config.data.threads, lambda done, all, name=name: advance(name, done, all)
        )
    return _lint(config, spec, parts, [*AT_START, *OTHERS], whole=True)


def lint_at_start(config: Config, spec: Spec, workdir: Path, say: Callable[[str], None]) -> None:
    """Tells what is found in the data of a new run and keeps it in its folder.

    Raises:
        RunError: errors that config.data.allow does not name.
    """
    with leader_first("lint"):
        lint = _kept(workdir, _key(config, spec)) or _lint(config, spec, _parts(config), AT_START, whole=False)
        write_lint(workdir, lint, config)
    for each in lint.findings:
        say(f"lint: {each.severity.value} {described(each)}")
    if bad := refused(lint.findings, config.data.allow):
        codes = ",".join(dict.fromkeys(each.code for each in bad))
        raise RunError(
            "The data has errors: " + "; ".join(map(described, bad)) + f". `biomedgpt lint` with this configuration "
            f"tells more. Repair the data, or train all the same with --allow={codes}, which every score will say."
        )


def described(finding: Finding) -> str:
    """One line without any text of the data."""
    share = f"{finding.count} of {finding.total} in {finding.where}"
    return f"{finding.code}: {RULES[finding.code].what}: {share} ({', '.join(finding.ids)})"


def write_lint(folder: Path, lint: Lint, config: Config) -> None:
    """With the errors that are allowed here, or were in an earlier stage."""
    before = read_lint(Path(config.init.run)) if config.init.run else None
    allowed = sorted({*config.data.allow, *(before.allowed if before else ())})
    (folder / LINT).write_text(lint_text(replace(lint, allowed=tuple(allowed))))


def lint_text(lint: Lint) -> str:
    """As it stands in lint.json."""
    return json.dumps(to_json(lint), indent=1) + "\n"


def without_ids(lint: Lint) -> Lint:
    """For those who get the model and not its data."""
    return replace(lint, findings=tuple(replace(each, ids=()) for each in lint.findings))


def score_facts(folder: Path) -> dict[str, Any]:
    """What scores of the model in `folder` say about the data that it learned from: counts by code, and the errors that
    were allowed. Weights of others do not say it.
    """
    lint = read_lint(folder)
    if lint is None:
        return dict.fromkeys(("lint", "lint_checks", "lint_allowed"), UNKNOWN)
    counts: dict[str, int] = {}
    for each in lint.findings:
        counts[each.code] = counts.get(each.code, 0) + each.count
    return {"lint": counts, "lint_checks": "all" if lint.whole else "at start", "lint_allowed": list(lint.allowed)}


def read_lint(folder: Path) -> Lint | None:
    """What is kept in the folder of a run, or came with a model. RunError where it is damaged."""
    file = folder / LINT
    if not file.is_file():
        return None
    try:
        return from_json(Lint, json.loads(file.read_text()), str(file))
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}). Run `biomedgpt lint` again, or remove it.") from error


def _kept(workdir: Path, key: str) -> Lint | None:
    lint = read_lint(workdir)
    return lint if lint is not None and lint.key == key else None


def _parts(config: Config) -> tuple[Part, ...]:
    asked = [(split, True) for split in splits(config)]
    asked += [(PreparedSplit(path, config.eval.split), False) for path in config.eval.paths]
    return tuple(Part(split, learned, split.samples(range(len(split)))) for split, learned in asked)


def _lint(config: Config, spec: Spec, parts: tuple[Part, ...], checks: Sequence[Check], *, whole: bool) -> Lint:
    listed = config.data.get("answers", "")
    material = Material(
        parts,
        # "train", the list of training answers, leaks nothing.
        answers=tuple(Path(listed).read_text(encoding="utf-8").splitlines()) if Path(listed).is_file() else (),
        hint=config.data.get("hint", ""),
        skips=overflow_of(config) is Overflow.SKIP,
    )
    findings = tuple(finding for check in checks for finding in check(material))
    samples = {part.name: len(part.samples) for part in parts}
    return Lint(_key(config, spec), whole, samples, findings, allowed=())


def _key(config: Config, spec: Spec) -> str:
    asked = [(split, "learned") for split in splits(config)]
    asked += [(PreparedSplit(path, config.eval.split), "scored") for path in config.eval.paths]
    files = [(role, [file.sha256 for file in split.manifest.splits[split.split].files]) for split, role in asked]
    settings: Mapping[str, Any] = config.data.to_dict()
    read = {name: value for name, value in settings.items() if name not in _ASIDE}
    tokenizer = config.tokenizer.to_dict(), config.init.to_dict(), config.model.get("decoder", "")
    return hashlib.sha256(repr((VERSION, files, to_json(spec), read, tokenizer)).encode()).hexdigest()[:32]
