"""A planned mixture as a data set to prepare: rows whose images are read as they are written."""

from collections.abc import Iterator

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.instructions.reword import instructions_for, reword
from biomedgpt_jax.data.mixing.plan import AS_IT_STANDS, Chosen, Plan
from biomedgpt_jax.data.rows import BadRow, ImageBytes, Row, make_row
from biomedgpt_jax.data.spec import Access, DatasetSpec, Raw, RawSplit, Source

SPLIT = "train"
# What would contradict an answer in another form, or tell a model another task.
_NOT_KEPT = ("choices", "letter", "label", "image_sha256")


def mixture_spec(plan: Plan, name: str) -> DatasetSpec:
    """Who may have the mixture is who may have the most guarded of its sets."""
    manifests = [part.split.manifest for part in plan.parts]
    guarded = [Access(each.access) for each in manifests]
    order = (Access.OPEN, Access.RESEARCH, Access.LOCAL, Access.REGISTRATION, Access.CREDENTIALED)
    return DatasetSpec(
        name=name,
        title=f"Instruction mixture of {', '.join(part.name for part in plan.parts)}",
        task="instruction",
        modality="many",
        protocol=None,
        source="; ".join(dict.fromkeys(each.source for each in manifests)),
        licence="; ".join(dict.fromkeys(each.licence for each in manifests)),
        access=max(guarded, key=order.index),
        citation=" ".join(dict.fromkeys(each.citation for each in manifests)),
        published={},
        read=lambda folder: Raw(
            {SPLIT: RawSplit(lambda: _rows(plan), len(plan.chosen))}, (), _sources(plan), plan.identity
        ),
        download=None,
        splits="ours: for training alone",
        checked="made of prepared data",
    )


def _rows(plan: Plan) -> Iterator[Row | BadRow]:
    for each in plan.chosen:
        part = plan.parts[each.part]
        try:
            yield _row(plan, each)
        except DataError as reason:
            yield BadRow(part.name, each.number + 1, str(reason))


def _row(plan: Plan, chosen: Chosen) -> Row:
    part = plan.parts[chosen.part]
    sample = part.samples[chosen.number]
    instructions = instructions_for(sample)
    if chosen.wording != AS_IT_STANDS and instructions is not None:
        sample = reword(sample, instructions, chosen.wording)
    meta = {name: value for name, value in sample.meta.items() if name not in _NOT_KEPT}
    meta |= {"task": "instruction", "from_task": str(sample.meta.get("task", "")), "from_set": part.name}
    images = [ImageBytes(part.split.image(image), f"{part.name} image {image}") for image in sample.images]
    turns = [(turn.question, turn.answer) for turn in sample.turns]
    return make_row(part.name, chosen.number + 1, id=f"{part.name}/{sample.id}", images=images, turns=turns, meta=meta)


def _sources(plan: Plan) -> tuple[Source, ...]:
    shown: list[set[int]] = [set() for _ in plan.parts]
    for each in plan.chosen:
        shown[each.part].update(plan.parts[each.part].samples[each.number].images)
    return tuple(
        Source(part.name, SPLIT, len(images), part.split.manifest.source, part.split.manifest.licence)
        for part, images in zip(plan.parts, shown, strict=True)
    )
