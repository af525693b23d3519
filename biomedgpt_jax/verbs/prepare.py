"""Turns a data set into ArrayRecord files with a manifest. A second call continues, or says that it is done.

biomedgpt prepare --config=configs/data/vqa_rad.py --out=data/vqa_rad
biomedgpt prepare --config=configs/data/dataset.py:name=slake --out=data/slake --config.source=raw/slake

With --features it computes what a frozen tower makes of prepared images, by the configuration that is to train:
biomedgpt prepare --features --out=data/vqa_rad.features --config=configs/llama3_med.py:stage=1,data=data/vqa_rad,...

With --codes it gives each image of prepared data the codes of a VQ-GAN, for BiomedGPT's pre-training:
biomedgpt prepare --codes=downloads/vqgan_gumbel_f8/last.ckpt --data=data/chexpert --out=data/chexpert_codes
"""

import sys
from functools import partial
from pathlib import Path

from absl import flags
from rich.table import Table

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.biomedgpt_tsv import TABLES
from biomedgpt_jax.data.datasets import DATASETS
from biomedgpt_jax.data.layouts import biomedgpt_files, llava_files, own_dataset, table_folder, tfds_folder, tsv_files
from biomedgpt_jax.data.manifest import MANIFEST, Manifest
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.spec import DatasetSpec
from biomedgpt_jax.data.tables import Columns
from biomedgpt_jax.verbs import command_line, prepare_codes, prepare_features
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.model_spec import lookup
from biomedgpt_jax.verbs.progress import progress

EXAMPLE = "biomedgpt prepare --config=configs/data/vqa_rad.py --out=data/vqa_rad"
SHOWN = 10  # skipped rows; the manifest lists all


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    flags.DEFINE_boolean("features", False, "Cache the features of a training's frozen tower.", flag_values=values)
    flags.DEFINE_string("codes", None, "Checkpoint of the VQ-GAN that gives images their codes.", flag_values=values)
    flags.DEFINE_string("data", None, "Prepared data whose images get codes.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    if values.codes:
        prepare_codes.run(values)
        return
    if values.features:
        prepare_features.run(values)
        return
    config = command_line.require_config(values, EXAMPLE, ("dataset", "source"))
    out = Path(command_line.require(values, "out", EXAMPLE))
    spec = _spec(config)
    with progress() as advance:
        manifest = prepare_dataset(
            spec,
            out,
            source_dir=config.source or None,
            workers=config.workers,
            progress=lambda split, done, total: advance(f"prepare {split}", done, total),
            report=advance,
            max_bad_share=config.max_bad_share,
            allow_other_sizes=config.allow_other_sizes,
            shard_rows=config.shard_rows,
            command=" ".join(sys.argv[1:]),
        )
    _print(manifest, out)


def _spec(config: Config) -> DatasetSpec:
    """A built-in data set, or the user's own files where the configuration has `own`.

    Raises:
        UsageError: an unknown name or layout, or own files without a source.
    """
    if "own" not in config:
        if config.dataset not in DATASETS:
            known = ", ".join(DATASETS)
            raise UsageError(
                f"No data set {config.dataset!r}; built in: {known}.{command_line.suggest(config.dataset, DATASETS)}"
            )
        return DATASETS[config.dataset]
    own = config.own
    if not config.source:
        raise UsageError("Own files need --config.source=FOLDER.")
    files, columns = dict(own.files), Columns(**own.columns)
    layouts = {
        "llava": lambda: llava_files(files, own.images),
        "tsv": lambda: tsv_files(files, own.images),
        **{f"biomedgpt-{table}": partial(biomedgpt_files, files, table, own.trial_order) for table in TABLES},
        "table": lambda: table_folder(columns, own.images),
        "tfds": lambda: tfds_folder(columns),
    }
    read = lookup("own.layout", own.layout, layouts)()
    return own_dataset(config.dataset, read, licence=own.licence, source=config.source, settings=own.to_json())


def _print(manifest: Manifest, out: Path) -> None:
    table = Table("split", "samples", "images", "skipped rows", title=f"{manifest.title}: {out}")
    for name, split in manifest.splits.items():
        table.add_row(name, str(split.samples), str(split.images), str(split.skipped))
    console = make_console()
    console.print(table)
    if manifest.sources:
        origins = Table("source", "split", "images", "origin", "licence")
        for source in manifest.sources:
            origins.add_row(source.name, source.split, str(source.images), source.origin, source.licence)
        console.print(origins)
    for row in manifest.skipped[:SHOWN]:
        console.print(f"skipped {row.file} row {row.row}: {row.reason}", markup=False)
    if len(manifest.skipped) > SHOWN:
        more = len(manifest.skipped) - SHOWN
        console.print(f"skipped {more} rows more: all are in {out / MANIFEST}", markup=False, soft_wrap=True)
    console.print(f"source: {manifest.source}; licence: {manifest.licence}", markup=False)
