"""Ask a model the questions of prepared splits and score the answers; used by `train` and `eval`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.placing import local_rows
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.batches import ImageReader, prompt_batches
from biomedgpt_jax.data.features import FeatureReader
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import encode_prompt, expanded_length
from biomedgpt_jax.data.tokenizers import Tokenizer
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.eval.questions import Question, to_question
from biomedgpt_jax.eval.runner import evaluate
from biomedgpt_jax.eval.summary import Answered, Summary
from biomedgpt_jax.verbs.model_spec import ModelSpec, image_transform, template
from biomedgpt_jax.verbs.page_content import describe
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.training_data import IMAGE_CACHE_BYTES, row_shape

BUCKET = 64  # prompt lengths are rounded up to a multiple, so that few shapes are compiled


@dataclass(frozen=True)
class Scorer:
    """A split with its prompts, ready to be asked again and again. Baselines come from `train_questions`."""

    spec: ModelSpec
    tokenizer: Tokenizer
    split: PreparedSplit
    train_source: str
    questions: tuple[Question, ...]
    train_questions: tuple[Question, ...]
    reader: ImageReader | FeatureReader
    protocol: Protocol
    batch_rows: int
    max_new_tokens: int

    @property
    def folder_name(self) -> str:
        """Of its results inside a run."""
        return results_folder(self.split)

    def __call__(
        self, model: ModelFns, params: Params, folder: Path, facts: dict[str, Any], advance: Advance
    ) -> tuple[Summary, list[Answered]]:
        """Writes predictions.jsonl and scores.json into `folder`; `facts` say which weights are asked."""
        samples = [self.split[number] for number in range(len(self.split))]
        prompts = [encode_prompt(sample, template(self.spec), self.tokenizer) for sample in samples]
        tokens_per_image = self.spec.model.tokens_per_image
        longest = max(expanded_length(prompt, tokens_per_image) for prompt in prompts)
        slots = max(len(prompt.images) for prompt in prompts)
        shape = row_shape(self.spec, self.tokenizer, longest, slots, self.reader.feature_shape)
        buckets = range(BUCKET, longest + BUCKET, BUCKET)

        def generate(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            return greedy(
                model,
                params,
                batch,
                max_new_tokens=self.max_new_tokens,
                stop_ids=tuple(self.tokenizer.stop_ids),
                cache_length=batch["tokens"].shape[1] + self.max_new_tokens,
                vocab_limit=self.tokenizer.vocab_size,
            )

        return evaluate(
            prompt_batches(
                prompts,
                self.split,
                self.reader,
                shape,
                buckets,
                self.batch_rows,
                pictured=pictured_rows(self.batch_rows),
            ),
            self.questions,
            generate,
            self.tokenizer.decode,
            self.protocol,
            train=self.train_questions,
            train_source=self.train_source,
            folder=str(folder),
            facts={**facts, **self._facts(model)},
            progress=lambda done, total, _: advance(f"ask {self.split.name}", done, total),
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
    size = spec.model.image_size
    pairs = [(PreparedSplit(path, split), PreparedSplit(path, train_split)) for path in paths]
    found = [
        Scorer(
            spec=spec,
            tokenizer=tokenizer,
            split=asked,
            train_source=trained.name,
            questions=split_questions(asked),
            train_questions=split_questions(trained),
            reader=features or ImageReader(image_transform(spec), (size, size), IMAGE_CACHE_BYTES),
            protocol=protocol,
            batch_rows=batch_rows,
            max_new_tokens=max_new_tokens,
        )
        for asked, trained in pairs
    ]
    check_folders([scorer.folder_name for scorer in found])
    return found


def results_folder(split: PreparedSplit) -> str:
    """Its name inside a run; without the way to the data, which may be long or absolute."""
    return f"{split.directory.resolve().name}_{split.split}"


def pictured_rows(batch_rows: int) -> range | None:
    """The rows of a batch whose images this process reads, None for all.

    Raises:
        UsageError: rows do not divide over the mesh.
    """
    if jax.process_count() == 1:
        return None
    rows = local_rows(jax.sharding.get_mesh(), batch_rows)
    return range(rows.start, rows.stop)


def check_folders(names: Sequence[str]) -> None:
    """Raises UsageError where two evaluation sets would write to one folder."""
    if len(set(names)) < len(names):
        raise UsageError(f"Two evaluation sets would write to one folder: {', '.join(names)}. Rename one of them.")


def headline_figures(summary: Summary, prefix: str) -> dict[str, float]:
    """One number per group: `<prefix>/organ/closed`."""
    return {f"{prefix}/{g.task}/{g.answer_type}": g.scores[g.headline].mean for g in summary.groups}


def split_questions(split: PreparedSplit) -> tuple[Question, ...]:
    """Raises RunError for a sample that cannot be scored."""
    return tuple(to_question(split[number]) for number in range(len(split)))


Evaluate = Callable[[Any], dict[str, float | int]]
