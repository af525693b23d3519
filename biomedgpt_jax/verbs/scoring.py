"""Ask a model the questions of prepared splits and score the answers; used by `train` and `eval`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from biomedgpt_jax.core.placing import local_rows
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.batches import ImageReader, prompt_batches
from biomedgpt_jax.data.features import FeatureReader
from biomedgpt_jax.data.tasks import encode_prompt, expanded_length
from biomedgpt_jax.data.tokenizers import Tokenizer
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.eval.runner import evaluate
from biomedgpt_jax.eval.summary import Answered, Summary
from biomedgpt_jax.verbs.exam import Exam, exams
from biomedgpt_jax.verbs.model_spec import ModelSpec, image_transform, template
from biomedgpt_jax.verbs.page_content import describe
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.training_data import IMAGE_CACHE_BYTES, row_shape

BUCKET = 64  # prompt lengths are rounded up to a multiple, so that few shapes are compiled


@dataclass(frozen=True)
class Scorer:
    """An exam that may be put to a model again and again."""

    spec: ModelSpec
    tokenizer: Tokenizer
    exam: Exam
    reader: ImageReader | FeatureReader
    protocol: Protocol
    batch_rows: int
    max_new_tokens: int

    @property
    def folder_name(self) -> str:
        """Of its results inside a run."""
        return self.exam.folder_name

    def __call__(
        self, model: ModelFns, params: Params, folder: Path, facts: dict[str, Any], advance: Advance
    ) -> tuple[Summary, list[Answered]]:
        """Writes predictions.jsonl and scores.json into `folder`; `facts` say which weights are asked."""
        split, asked_as = self.exam.split, template(self.spec)
        samples = split.samples(range(len(split)))
        prompts = [encode_prompt(sample, asked_as, self.tokenizer) for sample in samples]
        tokens_per_image = self.spec.model.tokens_per_image
        longest = max(expanded_length(prompt, tokens_per_image) for prompt in prompts)
        slots = max(len(prompt.images) for prompt in prompts)
        shape = row_shape(self.spec, self.tokenizer, longest, slots, self.reader.feature_shape)
        buckets = range(BUCKET, longest + BUCKET, BUCKET)

        ready = model.ready(params)

        def generate(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            return greedy(
                model,
                ready,
                batch,
                max_new_tokens=self.max_new_tokens,
                stop_ids=tuple(self.tokenizer.stop_ids),
                cache_length=batch["tokens"].shape[1] + self.max_new_tokens,
                vocab_limit=self.tokenizer.vocab_size,
            )

        return evaluate(
            prompt_batches(
                prompts,
                split,
                self.reader,
                shape,
                buckets,
                self.batch_rows,
                pictured=pictured_rows(self.batch_rows),
            ),
            self.exam.questions,
            self.exam.remember(generate),
            self.tokenizer.decode,
            self.protocol,
            train=self.exam.train_questions,
            train_source=self.exam.train_source,
            folder=str(folder),
            facts={**facts, **self._facts(model)},
            progress=lambda done, total, _: advance(f"ask {split.name}", done, total),
        )

    def _facts(self, model: ModelFns) -> dict[str, Any]:
        """What an answer depends on besides weights and question."""
        return {
            "description": describe(self.spec, model),
            "template": self.spec.template,
            "geometry": self.spec.geometry,
            "decoding": {"method": "greedy", "max_new_tokens": self.max_new_tokens},
        }


def scorers(
    spec: ModelSpec,
    tokenizer: Tokenizer,
    paths: Sequence[str],
    split: str,
    *,
    train_split: str,
    protocol: Protocol,
    batch_rows: int,
    max_new_tokens: int,
    features: FeatureReader | None,
) -> list[Scorer]:
    """One for each of `paths`, checked before anything is asked; they read images, or `features` in their place.

    Raises:
        UsageError: two sets of one name. DataError, RunError: a split that cannot be scored.
    """
    reader = features or image_reader(spec)
    return [
        Scorer(spec, tokenizer, exam, reader, protocol, batch_rows, max_new_tokens)
        for exam in exams(paths, split, train_split)
    ]


def image_reader(spec: ModelSpec) -> ImageReader:
    size = spec.model.image_size
    return ImageReader(image_transform(spec), (size, size), IMAGE_CACHE_BYTES)


def pictured_rows(batch_rows: int) -> range | None:
    """The rows of a batch whose images this process reads, None for all.

    Raises:
        UsageError: rows do not divide over the mesh.
    """
    if jax.process_count() == 1:
        return None
    rows = local_rows(jax.sharding.get_mesh(), batch_rows)
    return range(rows.start, rows.stop)


def headline_figures(summary: Summary, prefix: str) -> dict[str, float]:
    """One number per group: `<prefix>/organ/closed`."""
    return {f"{prefix}/{g.task}/{g.answer_type}": g.scores[g.headline].mean for g in summary.groups}


Evaluate = Callable[[Any], dict[str, float | int]]
