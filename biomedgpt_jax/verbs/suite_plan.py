"""Which data sets a suite asks about, and why not the others."""

from dataclasses import dataclass
from pathlib import Path

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.datasets import ALL, DATASETS
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.instructions.reword import Choose
from biomedgpt_jax.data.manifest import MANIFEST, Manifest, read_manifest
from biomedgpt_jax.data.spec import DatasetSpec
from biomedgpt_jax.eval.protocols import Protocol, protocol
from biomedgpt_jax.verbs.command_line import Config, suggest
from biomedgpt_jax.verbs.exam import Exam, exam
from biomedgpt_jax.verbs.instructed import wording

OTHER, OTHER_PROTOCOL = "other", "strict/v1"  # of data of one's own
SCORED_SPLITS = ("test", "test_clean", "validation")  # the first that a data set has is asked


@dataclass(frozen=True)
class Planned:
    """One prepared split to be asked once and scored under each of `protocols`."""

    folder: Path
    name: str  # of the data set
    split: str
    train_split: str
    protocols: tuple[Protocol, ...]
    max_new_tokens: int
    limit: int
    choose: Choose | None  # the wording of its questions
    questions: int
    is_part: bool  # of the split
    files: tuple[str, ...]  # sha256 of those of both splits

    @property
    def title(self) -> str:
        """Of its folder of results."""
        return f"{self.folder.name}_{self.split}"

    def exam(self) -> Exam:
        return exam(str(self.folder), self.split, self.train_split, self.limit, self.choose)


@dataclass(frozen=True)
class LeftOut:
    """Data that is not scored, or not under one protocol."""

    name: str
    protocol: str  # "": under none
    why: str


@dataclass(frozen=True)
class SuitePlan:
    asked: tuple[Planned, ...]
    left_out: tuple[LeftOut, ...]  # there, but not scored
    absent: tuple[DatasetSpec, ...]  # known, but not there


def plan_suite(config: Config) -> SuitePlan:
    """Looks at all prepared data under config.root, of which config.sets may name some.

    Raises:
        UsageError: a named set is not there, or nothing is. DataError, RunError: a named set cannot be scored.
    """
    root, wanted = Path(config.root), [_wanted(name) for name in config.sets]
    found, damaged = _prepared(root)
    for name, _ in wanted:
        if not any(_is(name, folder, manifest, found) for folder, manifest in found):
            _refuse_missing(name, root, [folder.name for folder, _ in found], damaged)
    asked: list[Planned] = []
    left_out = [LeftOut(name, "", why) for name, why in damaged.items()]
    for folder, manifest in found:
        splits = [split for name, split in wanted if _is(name, folder, manifest, found)]
        for split in splits or ([] if wanted else [""]):
            try:
                asked.append(_planned(folder, manifest, split, config))
            except (DataError, RunError) as error:
                if wanted or isinstance(error, UsageError):
                    raise
                left_out.append(LeftOut(folder.name, "", str(error)))
    if not asked:
        told = "".join(f" {each.name}: {each.why}." for each in left_out)
        raise UsageError(
            f"config.root = {root}: nothing to score is prepared there.{told} `biomedgpt data` lists what there is."
        )
    there = {manifest.name for _, manifest in found}
    absent = tuple(spec for spec in ALL if spec.protocol is not None and spec.name not in there)
    return SuitePlan(tuple(asked), tuple(left_out), absent)


def _wanted(entry: str) -> tuple[str, str]:
    """Name, and split or ""."""
    name, _, split = entry.partition(":")
    return name, split


def _is(name: str, folder: Path, manifest: Manifest, found: list[tuple[Path, Manifest]]) -> bool:
    """Whether a name means this folder: its own, or where no folder has the name, that of its data set."""
    return name == folder.name or (name == manifest.name and all(name != other.name for other, _ in found))


def _prepared(root: Path) -> tuple[list[tuple[Path, Manifest]], dict[str, str]]:
    """Folders of prepared data, and what is wrong with others; caches of features have a manifest of another kind."""
    if not root.is_dir():
        raise UsageError(f"config.root = {root}: there is no such folder; expected one with prepared data sets.")
    found, damaged = [], {}
    for folder in sorted(path.parent for path in root.glob(f"*/{MANIFEST}")):
        if any(folder.glob("shard-*")):
            continue
        try:
            found.append((folder, read_manifest(folder)))
        except DataError as error:
            damaged[folder.name] = str(error)
    return found, damaged


def _planned(folder: Path, manifest: Manifest, split: str, config: Config) -> Planned:
    spec = DATASETS.get(manifest.name)
    if spec is not None and spec.protocol is None:
        raise RunError(f"{folder} is made to learn from and has no questions to score")
    split = split or next((name for name in SCORED_SPLITS if name in manifest.splits), "")
    if not split:
        raise RunError(f"{folder} has none of the splits {', '.join(SCORED_SPLITS)}; name one: {folder.name}:SPLIT")
    settings = config.tasks.get(_task(manifest.name), config.tasks[OTHER])
    own = OTHER_PROTOCOL if spec is None or spec.protocol is None else spec.protocol
    train = config.train_split if config.train_split in manifest.splits and config.train_split != split else ""
    choose = wording(config.instruct, config.instruct_seed)
    asked = exam(str(folder), split, train, config.limit, choose)
    return Planned(
        folder=folder,
        name=manifest.name if spec else folder.name,
        split=split,
        train_split=train,
        protocols=tuple(protocol(name) for name in dict.fromkeys((own, *settings.protocols))),
        max_new_tokens=settings.max_new_tokens,
        limit=config.limit,
        choose=choose,
        questions=len(asked.questions),
        is_part=len(asked.questions) < manifest.splits[split].samples,
        files=tuple(file.sha256 for name in (split, train) if name for file in manifest.splits[name].files),
    )


def _task(name: str) -> str:
    """That of its data set, which config.tasks may name."""
    return DATASETS[name].task.split(" (")[0] if name in DATASETS else OTHER


def _refuse_missing(name: str, root: Path, there: list[str], damaged: dict[str, str]) -> None:
    if name in damaged:
        raise RunError(damaged[name])
    how = f" Prepare it: biomedgpt prepare --config=configs/data/dataset.py:name={name} --out={root / name}"
    hint = suggest(name, there) or (how if name in DATASETS else suggest(name, DATASETS))
    raise UsageError(
        f"config.sets names {name!r}, which is not prepared in {root}; there are {', '.join(there)}.{hint}"
    )
