"""`biomedgpt export` of a BiomedGPT: a run or imported weights as OFA's Hugging Face folder, or as a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from biomedgpt_jax.checkpoint.start import from_run
from biomedgpt_jax.checkpoint.weights import TABLE, weights_table
from biomedgpt_jax.convert.card import Card, Origin, Score, licence_note, shared_licence
from biomedgpt_jax.convert.export import Exported, Form
from biomedgpt_jax.convert.export_biomedgpt import ExportPairs, export_fairseq, export_ofa
from biomedgpt_jax.convert.families import read_json
from biomedgpt_jax.convert.hub import push_folder, refuse_credentialed
from biomedgpt_jax.convert.leaves import Leaves, cast
from biomedgpt_jax.convert.open_biomedgpt import TOKENIZER_FILES
from biomedgpt_jax.convert.parity import write_certificate
from biomedgpt_jax.convert.processing import ANSWERS, ASKING
from biomedgpt_jax.convert.reimport import reimport
from biomedgpt_jax.convert.shapes import leaf_shapes
from biomedgpt_jax.core.config_json import from_json, to_json
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig
from biomedgpt_jax.verbs.biomedgpt_spec import BiomedGptSpec
from biomedgpt_jax.verbs.export_source import run_leaves, run_scores, stored_leaves
from biomedgpt_jax.verbs.origins import companions, read_origins
from biomedgpt_jax.verbs.spec_file import read_spec
from biomedgpt_jax.verbs.training_data import TOKENIZER

Write = Callable[[Path, Leaves, BiomedGptConfig, ExportPairs], Exported]
WRITERS: dict[Form, Write] = {Form.OFA: export_ofa, Form.FAIRSEQ: export_fairseq}
UNCOMPARED = "there is no PyTorch implementation to compare with; the weights are read back bit for bit"


@dataclass(frozen=True)
class _Source:
    name: str
    config: BiomedGptConfig
    leaves: Leaves
    asking: dict[str, Any] | None
    tokenizer_files: tuple[Path, ...]
    answers: Path  # the closed list, which need not be there
    origins: tuple[Origin, ...]
    scores: tuple[Score, ...]


def export(folder: Path, out: Path, form: str, values: flags.FlagValues, say: Callable[[str], None]) -> int:
    """Writes, reads back, certifies and uploads; returns the exit code.

    Args:
        form: "auto" is OFA's folder.

    Raises:
        UsageError: a form of another family, or flags that say nothing about a BiomedGPT.
    """
    named = {each.value: each for each in WRITERS} | {"auto": Form.OFA}
    if form not in named:
        raise UsageError(f"--form={form}: {folder} is a BiomedGPT; its forms are {', '.join(named)}.")
    for flag in ("template", "geometry"):
        if values[flag].value:
            raise UsageError(f"--{flag}: a BiomedGPT is asked as its run says; leave the flag out.")
    if values.verify:
        raise UsageError(f"--verify: {UNCOMPARED}. Leave the flag out.")
    source = _weights(folder) if (folder / TABLE).is_file() else _run(folder, values.step)
    if hub := values["push-to-hub"].value:
        refuse_credentialed(hub, source.origins)
    leaves = cast(source.leaves, values.dtype) if values.dtype else source.leaves
    card = Card(
        title=Path(source.name).name,
        licence=shared_licence(source.origins),
        origins=source.origins,
        scores=source.scores,
        notes=(),
        companions=companions(folder, source.origins),
    )
    extras = ExportPairs(source.asking, (*source.tokenizer_files, *filter(Path.is_file, [source.answers])), card)
    exported = WRITERS[named[form]](out, leaves, source.config, extras)
    say(f"{exported.architecture} in {out}")
    if not source.tokenizer_files:
        say("note: the source holds no tokenizer, so the folder has none")
    return _prove_and_push(source, leaves, exported, values, say)


def _prove_and_push(
    source: _Source, leaves: Leaves, exported: Exported, values: flags.FlagValues, say: Callable[[str], None]
) -> int:
    out = exported.folder
    same = reimport(out, leaves, source.config)
    say(f"read back: {same.leaves} arrays, {len(same.unequal)} differ")
    facts: dict[str, Any] = {"form": exported.form.value, "dtype": str(leaves.dtype), "skipped": UNCOMPARED}
    if not write_certificate(out, same, None, **facts):
        say(f"{out} is not the same model; parity.json says where it differs.")
        return 1
    if hub := values["push-to-hub"].value:
        if note := licence_note(source.origins):
            say(f"note: {note}")
        say(f"uploaded: {push_folder(out, hub, private=values.private)}")
    return 0


def _run(folder: Path, step: int | None) -> _Source:
    """With averages, where the run kept any: as the model answers."""
    spec, source = read_spec(folder, BiomedGptSpec), from_run(folder, step=step)
    asking = {name: value for name, value in to_json(spec).items() if name not in ("type", "model")}
    tokenizer = folder / TOKENIZER
    return _Source(
        name=source.name,
        config=spec.model,
        leaves=run_leaves(source, leaf_shapes(spec.model)),
        asking=asking,
        tokenizer_files=tuple(sorted(tokenizer.iterdir())) if tokenizer.is_dir() else (),
        answers=folder / ANSWERS,
        origins=read_origins(folder),
        scores=run_scores(folder, source.name),
    )


def _weights(folder: Path) -> _Source:
    table, asking = weights_table(folder), folder / ASKING
    return _Source(
        name=str(folder),
        config=from_json(BiomedGptConfig, table["meta"]["config"], f"{folder / TABLE}: config"),
        leaves=stored_leaves(folder),
        asking=read_json(asking) if asking.is_file() else None,
        tokenizer_files=tuple(file for name in TOKENIZER_FILES if (file := folder / name).is_file()),
        answers=folder / ANSWERS,
        origins=(Origin(folder.name, "model", table["meta"].get("licence"), table["hash"]), *read_origins(folder)),
        scores=(),
    )
