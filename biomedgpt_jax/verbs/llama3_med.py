"""Llama3-Med, and all models of a vision tower, a connector and a decoder, as the verbs ask for them."""

from dataclasses import asdict
from pathlib import Path

import jax
from jax.sharding import Mesh

from biomedgpt_jax.core.lora import begins_behind_zero
from biomedgpt_jax.core.processes import leader_first
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.data.batches import RowShape, empty_batch
from biomedgpt_jax.data.lint.encoding import code_conversation
from biomedgpt_jax.data.lint.material import Coded
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.eval.protocols import protocol
from biomedgpt_jax.models.flops import Flops, train_flops
from biomedgpt_jax.models.llama3_med import NO_REMAT, Tune, trainable
from biomedgpt_jax.plan.compile import Shapes
from biomedgpt_jax.plan.prediction import Workload
from biomedgpt_jax.train.objectives import Objective, all_words
from biomedgpt_jax.train.recorder import Costs
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.costs import costs_of
from biomedgpt_jax.verbs.family import Coder, Family, Predicate, RunData
from biomedgpt_jax.verbs.features import feature_shape, training_features
from biomedgpt_jax.verbs.left_out import FILE as LEFT_OUT
from biomedgpt_jax.verbs.left_out import all_listed, left_out
from biomedgpt_jax.verbs.model_spec import (
    ModelSpec,
    build_model,
    image_transform,
    lookup,
    remat_from_config,
    spec_from_config,
    template,
)
from biomedgpt_jax.verbs.page_content import describe
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.scoring import scorers
from biomedgpt_jax.verbs.starting_weights import check_origins, start_params
from biomedgpt_jax.verbs.training_checks import check_divides, check_model_settings
from biomedgpt_jax.verbs.training_data import overflow_of, reading, run_tokenizer, training_data

TUNE = {kind.value: kind for kind in Tune}


def _build(config: Config, spec: ModelSpec) -> ModelFns:
    return build_model(spec, compute_dtype=config.model.compute_dtype, remat=remat_from_config(config))


def _trainable(config: Config, spec: ModelSpec) -> Predicate:
    return trainable(
        spec.model,
        tower=config.tune.tower,
        connector=config.tune.connector,
        decoder=lookup("tune.decoder", config.tune.decoder, TUNE),
    )


def _objective(config: Config, spec: ModelSpec) -> Objective:
    return all_words(chunk_size=config.train.loss_chunk, label_smoothing=0.0, z_loss=0.0, vocab_size=None)


def _data(config: Config, spec: ModelSpec, mesh: Mesh, workdir: Path) -> RunData:
    features = training_features(config, spec, mesh, workdir)
    with all_listed(workdir / LEFT_OUT), leader_first("prepare the run"), progress() as advance:
        tokenizer = run_tokenizer(config, workdir)
        data = training_data(config, spec, tokenizer, workdir, advance, features.feature_shape if features else None)
    fill = f"{data.fill.token_share:.1%} of tokens, {data.fill.image_share:.1%} of image slots"
    return RunData(
        num_steps=data.num_steps,
        said=f"{data.num_steps} steps of {data.batch_size} rows; filled: {fill}; "
        f"{left_out(data.mixture, data.skipped, workdir)}",
        facts={"fill": asdict(data.fill)},
        objective=_objective(config, spec),
        batches=lambda rows: data.batches(features or image_transform(spec), reading(config), rows),
        sample_name=data.sample_id,
        scorers=scorers(
            spec,
            tokenizer,
            config.eval.paths,
            config.eval.split,
            train_split=config.data.split,
            protocol=protocol(config.eval.protocol),
            batch_rows=config.eval.batch_rows,
            max_new_tokens=config.eval.max_new_tokens,
            features=features,
        ),
    )


def _coder(config: Config, spec: ModelSpec, workdir: Path) -> Coder:
    def code(sample: Sample, learned: bool) -> Coded:
        return code_conversation(
            sample,
            learned,
            template=asked,
            tokenizer=tokenizer,
            tokens_per_image=spec.model.tokens_per_image,
            row_tokens=config.data.row_tokens,
            image_slots=config.data.image_slots,
            overflow=overflow,
        )

    asked, tokenizer, overflow = template(spec), run_tokenizer(config, workdir), overflow_of(config)
    return code


def _batch_shapes(config: Config, spec: ModelSpec) -> Shapes:
    """Of the global batch, as the data pipeline makes it."""
    size = spec.model.image_size
    features = feature_shape(spec, config.model.compute_dtype) if config.data.features else None
    row = RowShape(
        config.data.row_tokens, config.data.image_slots, spec.model.tokens_per_image, (size, size), 0, features
    )
    one = empty_batch(1, row, max_samples=1)
    del one["samples"]
    rows = config.train.batch_rows
    return {name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype) for name, array in one.items()}


def _flops(config: Config, spec: ModelSpec, is_trainable: Predicate) -> Flops:
    row_tokens, run_tower = config.data.row_tokens, not config.data.features
    return train_flops(spec.model, is_trainable, row_tokens=row_tokens, lora=spec.lora, run_tower=run_tower)


def _costs(config: Config, spec: ModelSpec, is_trainable: Predicate) -> Costs:
    """Attention counts in full, not causally halved."""
    flops = _flops(config, spec, is_trainable)
    return costs_of({"tokens": flops.per_token, "images": flops.per_image})


def _workload(config: Config, spec: ModelSpec, is_trainable: Predicate) -> Workload:
    rows = config.train.batch_rows
    tokens, images = rows * config.data.row_tokens, rows * config.data.image_slots
    flops = _flops(config, spec, is_trainable)
    seen = images * flops.per_image
    return Workload(tokens, images, tokens * flops.per_token + seen, tokens * flops.per_token_causal + seen)


def _describe(spec: ModelSpec) -> str:
    return describe(spec, build_model(spec, compute_dtype="float32", remat=NO_REMAT))


def _check_rows(config: Config, mesh: Mesh) -> None:
    context = mesh.shape["context"]
    check_divides("data.row_tokens", config.data.row_tokens, context, f"mesh context={context}")


def _weights(config: Config) -> dict[str, str]:
    return {
        "whole model": config.init.get("weights", ""),
        "vision tower": config.model.tower,
        "second vision tower": config.model.second_tower,
        "decoder": config.model.decoder,
    }


LLAMA3_MED = Family(
    title="Llama3-Med",
    spec_type=ModelSpec,
    sections=("tune", "lora"),
    check=check_model_settings,
    check_rows=_check_rows,
    check_start=check_origins,
    spec=spec_from_config,
    build=_build,
    trainable=_trainable,
    unused=lambda config, spec: lambda path: False,
    late=begins_behind_zero,
    sees_images=lambda config, spec: True,
    tokens_per_image=lambda spec: spec.model.tokens_per_image,
    objective=_objective,
    data=_data,
    start=start_params,
    costs=_costs,
    batch_shapes=_batch_shapes,
    workload=_workload,
    weights=_weights,
    describe=_describe,
    padding=lambda spec: lambda path: 0,
    coder=_coder,
    remat_part="decoder",
)
