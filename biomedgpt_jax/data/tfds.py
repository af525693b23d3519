"""The built-in data sets as TFDS builders, in ArrayRecord files and without TensorFlow.

    import tensorflow_datasets as tfds
    import biomedgpt_jax.data.tfds
    source = tfds.data_source("vqa_rad", split="train")

Importing this module registers one builder per row of datasets.py with TFDS, under its name, as TFDS asks of a package
of builders. An example has its images as they are stored (JPEG or PNG bytes), so a picture is kept once per question;
`biomedgpt prepare` keeps it once. Files that a person must get lie in `DATA_DIR/downloads/manual/NAME`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from biomedgpt_jax.data.datasets import ALL
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import storable
from biomedgpt_jax.data.prepare import instructions
from biomedgpt_jax.data.rows import BadRow, Row
from biomedgpt_jax.data.spec import Access, DatasetSpec, RawSplit

VERSION = "1.0.0"


class RowBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of one row. Rows that cannot be used and other sizes than published end it (`biomedgpt prepare` can
    allow both).
    """

    VERSION = tfds.core.Version(VERSION)
    spec: DatasetSpec

    def __init__(self, *, data_dir: Any = None, file_format: Any = "array_record", **options: Any):
        if self.spec.access is Access.CREDENTIALED and (data_dir is None or "://" in str(data_dir)):
            raise DataError(
                f"{self.spec.name} is credentialed: give data_dir, a folder of this machine that only people under its "
                "agreement can read; it is not written to TFDS's own folder"
            )
        super().__init__(data_dir=data_dir, file_format=file_format, **options)

    def _info(self) -> Any:
        text = tfds.features.Text()
        features = {
            "id": text,
            "images": tfds.features.Sequence(tfds.features.Image(shape=(None, None, None))),
            "turns": tfds.features.Sequence({"question": text, "answer": text}),
            "meta": text,  # JSON
        }
        return self.dataset_info_from_configs(
            description=f"{self.spec.title}. Licence: {self.spec.licence}. Splits: {self.spec.splits}.",
            features=tfds.features.FeaturesDict(features),
            homepage=self.spec.source if "://" in self.spec.source else None,
            citation=self.spec.citation,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        raw = self.spec.read(self._folder(Path(dl_manager.download_dir)))
        return {name: self._generate_examples(name, split) for name, split in raw.splits.items()}

    def _generate_examples(self, name: str, split: RawSplit) -> Iterator[tuple[str, dict[str, Any]]]:
        count = 0
        for row in split.rows():
            count += 1
            if isinstance(row, BadRow):
                raise DataError(f"{self.spec.name}: {row.file} row {row.row}: {row.reason}")
            yield f"{row.file}:{row.row}:{row.id}", _example(row)
        published = self.spec.published.get(name, count)
        if count != published:
            raise DataError(f"{self.spec.name}: split {name!r}: {count} rows found, {published} published")

    def _folder(self, downloads: Path) -> Path:
        """Where the raw files are: what a person put there, else a download."""
        given = downloads / "manual" / self.spec.name
        if given.is_dir():
            return given
        if self.spec.download is None:
            raise DataError(f"{given}: no such folder.\n{instructions(self.spec, f'Put the files into {given}')}")
        folder = downloads / self.spec.name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.spec.download(folder, _quiet)
        except DataError as reason:
            raise DataError(f"{reason}. TFDS takes files that were brought from {given}") from reason
        return folder


def _example(row: Row) -> dict[str, Any]:
    turns = [{"question": question, "answer": answer} for question, answer in row.turns]
    images = [storable(image.read(), image.name) for image in row.images]
    return {"id": row.id, "images": images, "turns": turns, "meta": json.dumps(row.meta, ensure_ascii=False)}


def _quiet(what: str, done: int, total: int | None) -> None:
    """TFDS has its own progress."""


def _builder(spec: DatasetSpec) -> type[RowBuilder]:
    """TFDS names a data set after its class, so the class is named after the data set."""
    name = "".join(part.capitalize() for part in spec.name.split("_"))
    return type(name, (RowBuilder,), {"spec": spec, "name": spec.name, "__module__": __name__, "__doc__": spec.title})


BUILDERS = {spec.name: _builder(spec) for spec in ALL}
