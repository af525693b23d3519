"""Ask an encoder-decoder the questions of prepared splits and score the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.answer_lists import count_unlisted
from biomedgpt_jax.data.batches import ImageReader
from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.errors import DataError, UnusableSamples
from biomedgpt_jax.data.pair_batches import pair_prompt_batches
from biomedgpt_jax.data.pair_encoding import EncodedPair, encode_pair_prompt
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.eval.runner import evaluate
from biomedgpt_jax.eval.summary import Answered, Summary
from biomedgpt_jax.models.biomedgpt_config import counted_parameters
from biomedgpt_jax.models.biomedgpt_positions import UNUSED
from biomedgpt_jax.verbs.biomedgpt_spec import STILL, BiomedGptSpec, build_model, pair_image
from biomedgpt_jax.verbs.exam import Exam, exams
from biomedgpt_jax.verbs.left_out import FILE as LEFT_OUT
from biomedgpt_jax.verbs.left_out import all_listed
from biomedgpt_jax.verbs.pair_answers import Answering, answerer, prompt_shapes
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.scoring import pictured_rows
from biomedgpt_jax.verbs.training_data import IMAGE_CACHE_BYTES


@dataclass(frozen=True)
class PairScorer:
    """An exam that may be put to a model again and again."""

    spec: BiomedGptSpec
    tokenizer: BiomedGptTokens
    exam: Exam
    protocol: Protocol
    batch_rows: int
    how: Answering

    @property
    def folder_name(self) -> str:
        return self.exam.folder_name

    def __call__(
        self, model: ModelFns, params: Params, folder: Path, facts: dict[str, Any], advance: Advance
    ) -> tuple[Summary, list[Answered]]:
        split = self.exam.split
        samples = split.samples(range(len(split)))
        with all_listed(folder.with_name(f"{folder.name}.{LEFT_OUT}")):
            prompts = self._prompts(samples)
        size = (self.spec.image_size, self.spec.image_size)
        return evaluate(
            pair_prompt_batches(
                prompts,
                split,
                ImageReader(pair_image(self.spec), size, IMAGE_CACHE_BYTES),
                prompt_shapes(prompts, self.spec.model.text_positions - UNUSED, self.how.room),
                self.batch_rows,
                pictured=pictured_rows(self.batch_rows),
            ),
            self.exam.questions,
            self.exam.remember(answerer(model, model.ready(params), self.tokenizer, self.how)),
            self.tokenizer.decode,
            self.protocol,
            train=self.exam.train_questions,
            train_source=self.exam.train_source,
            folder=str(folder),
            facts={
                **facts,
                **self._facts(samples),
                "hinted": sum(prompt.hinted for prompt in prompts),
                "shortened": sum(prompt.shortened for prompt in prompts),  # documents of which a part was read
            },
            progress=lambda done, total, _: advance(f"ask {split.name}", done, total),
        )

    def _prompts(self, samples: Sequence[Sample]) -> list[EncodedPair]:
        """UnusableSamples: some cannot be asked; scores of the rest alone would be of another set."""
        prompts: list[EncodedPair] = []
        refused: list[tuple[str, str]] = []
        for sample in samples:
            try:
                prompts.append(encode_pair_prompt(sample, self.spec.rules, self.tokenizer, self.spec.limits))
            except DataError as error:
                refused.append((sample.name, str(error)))
        if refused:
            shown = "; ".join(reason for _, reason in refused[:3])
            name = self.exam.split.name
            raise UnusableSamples(
                f"{name}: {len(refused)} of {len(samples)} questions cannot be asked: {shown}", refused
            )
        return prompts

    def _facts(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """What an answer depends on besides weights and question."""
        spec, answers = self.spec, self.how.answers
        never = count_unlisted(samples, answers, self.tokenizer, spec.lower_answers)
        return ({"truths_not_in_list": never} if answers else {}) | {
            "description": describe(spec),
            "geometry": spec.geometry,
            "task": spec.task or "as each sample says",
            "hint": spec.hint or "none",
            "decoding": self.how.described(),
        }


def pair_scorers(
    spec: BiomedGptSpec,
    tokenizer: BiomedGptTokens,
    paths: Sequence[str],
    split: str,
    *,
    train_split: str,
    protocol: Protocol,
    batch_rows: int,
    how: Answering,
) -> list[PairScorer]:
    """One for each of `paths`, checked before anything is asked.

    Raises:
        UsageError: two sets of one name. DataError, RunError: a split that cannot be scored.
    """
    return [PairScorer(spec, tokenizer, exam, protocol, batch_rows, how) for exam in exams(paths, split, train_split)]


def describe(spec: BiomedGptSpec) -> str:
    config = spec.model
    model = build_model(spec, compute_dtype="float32", remat=Remat.NONE, learning=STILL)
    counted = counted_parameters(config, jax.eval_shape(model.init, jax.random.key(0)))
    return (
        f"BiomedGPT with {counted:,} parameters: a ResNet stem of {sum(config.stem_blocks)} blocks at "
        f"{spec.image_size} pixels, an encoder of {config.encoder_layers} and a decoder of {config.decoder_layers} "
        f"layers of {config.width} channels, one vocabulary of {config.vocab_size:,} words, image codes and places."
    )
