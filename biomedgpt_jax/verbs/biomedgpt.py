"""BiomedGPT, the encoder-decoder, as the verbs ask for it."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import jax
from jax.sharding import Mesh

from biomedgpt_jax.checkpoint.start import Source, from_run, from_weights, starting_params
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.processes import leader_first
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.data.encoded_pairs import EncodedPairs
from biomedgpt_jax.data.lint.encoding import code_pairs
from biomedgpt_jax.data.lint.material import Coded
from biomedgpt_jax.data.pair_batches import PairFields, empty_pair_batch
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.data.trie import Trie
from biomedgpt_jax.eval.beam import Beams
from biomedgpt_jax.eval.protocols import protocol
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig
from biomedgpt_jax.models.biomedgpt_flops import train_flops
from biomedgpt_jax.models.biomedgpt_positions import UNUSED, extend_positions
from biomedgpt_jax.plan.compile import Shapes
from biomedgpt_jax.plan.prediction import Workload
from biomedgpt_jax.train.objectives import (
    Objective,
    all_words,
    allowed_words,
    lowest_losses,
    per_token,
    smoothing_over_others,
)
from biomedgpt_jax.train.recorder import Costs
from biomedgpt_jax.verbs.biomedgpt_spec import (
    STILL,
    BiomedGptSpec,
    build_model,
    imported_config,
    learning_model,
    pair_image,
    spec_from_config,
)
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.costs import costs_of
from biomedgpt_jax.verbs.family import Coder, Family, Predicate, RunData
from biomedgpt_jax.verbs.left_out import FILE as LEFT_OUT
from biomedgpt_jax.verbs.left_out import all_listed, left_out
from biomedgpt_jax.verbs.model_spec import lookup
from biomedgpt_jax.verbs.pair_answers import METHODS, Answering
from biomedgpt_jax.verbs.pair_data import (
    Answers,
    answer_trie,
    answers_of,
    build_data,
    encode_training,
    limits,
    pair_tokenizer,
    shapes,
)
from biomedgpt_jax.verbs.pair_scoring import describe, pair_scorers
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.spec_file import read_spec
from biomedgpt_jax.verbs.starting_weights import placed, summary
from biomedgpt_jax.verbs.training_checks import check_counts, check_divides, check_not_negative, check_shares
from biomedgpt_jax.verbs.training_data import overflow_of, reading

# What a task without pictures, or with words as the only targets, never reaches.
_OF_IMAGES = ("encoder/stem", "encoder/image_projection", "encoder/patch_norm", "encoder/positions/image")
_OF_CODES = ("decoder/code_norm", "decoder/positions/image", "decoder/layers/image_bias")
_ENCODER_IMAGE_BIAS = "encoder/layers/image_bias"
EMBEDDING = "embed/embedding"
# With a list of answers of one word each the first position decides, and it sees itself alone.
_OF_ORDER = (
    *(f"decoder/layers/{part}" for part in ("self_attention/q", "self_attention/k", "text_bias")),
    *("decoder/positions/self_q", "decoder/positions/self_k"),
)


def check(config: Config) -> None:
    check_counts(config, ("data.source_tokens", "data.source_buckets", "data.target_tokens"))
    check_counts(config, ("model.image_size", "eval.beams"))
    check_not_negative(config, ("model.vocab_size", "model.text_positions", "loss.drop_after", "data.answer_tokens"))
    check_not_negative(config, ("eval.no_repeat", "eval.min_length"))
    check_shares(config, ("model.dropout", "model.drop_path", "loss.label_smoothing", "loss.drop_worst", "data.noise"))
    lookup("eval.method", config.eval.method, METHODS)
    if config.eval.method == "candidates" and not config.data.answers:
        raise UsageError("config.eval.method = 'candidates' scores a closed list: name it in config.data.answers.")
    if config.eval.min_length > config.eval.max_new_tokens:
        raise UsageError(
            f"config.eval: min_length = {config.eval.min_length} is more than max_new_tokens = "
            f"{config.eval.max_new_tokens}."
        )
    if config.data.pretraining and config.data.answers:
        raise UsageError("config.data.pretraining has open answers: leave config.data.answers empty.")
    if config.loss.drop_worst and config.data.answers:
        raise UsageError("config.loss.drop_worst belongs to open answers; with config.data.answers set it to 0.")


def check_start(config: Config, spec: BiomedGptSpec) -> None:
    """Raises UsageError for a new run whose weights are of another model, or not there and may not be random."""
    if config.init.run:
        said, run = asdict(spec.model), asdict(read_spec(Path(config.init.run), BiomedGptSpec).model)
        other = [name for name in said if said[name] != run[name] and name != "text_positions"]
        if other:
            shown = "; ".join(f"{name}: {said[name]} here, {run[name]} there" for name in other[:5])
            raise UsageError(f"config.init.run = {config.init.run!r} is another model than config.model says. {shown}.")
    if not (config.init.run or config.init.weights or config.init.random):
        raise UsageError(
            f"No weights for the model. {config.model.size!r} says its size alone: expected a folder made by "
            "`biomedgpt import` in config.init.weights, an earlier run in config.init.run, or leave to start at "
            "random: --config.init.random=True."
        )


def build(config: Config, spec: BiomedGptSpec) -> ModelFns:
    return learning_model(config, spec)


def trainable(config: Config, spec: BiomedGptSpec) -> Predicate:
    return lambda path: config.tune.embeddings or not path.startswith("embed/")


def unused(config: Config, spec: BiomedGptSpec) -> Predicate:
    """A key's bias moves all logits of a query alike, so it has no gradient but rounding."""
    paths = (*_OF_CODES, *_OF_IMAGES, _ENCODER_IMAGE_BIAS, *(_OF_ORDER if config.data.answers else ()))
    return lambda path: path.startswith(paths) or path.endswith("k/bias")


def padding(spec: BiomedGptSpec) -> Callable[[str], int]:
    """The rows of the embedding behind the last word."""
    model = spec.model
    return lambda path: (model.padded_vocab_size - model.vocab_size) * model.width * path.startswith("embed/")


def objective(config: Config, spec: BiomedGptSpec, trie: Trie | None = None) -> Objective:
    """The official criterion: per token, over all words, the answers' words, or all but the worst tokens."""
    smoothing, words = config.loss.label_smoothing, spec.model.vocab_size
    if trie is not None:
        return per_token(allowed_words(trie.words, trie.next, label_smoothing=smoothing))
    chunk, smoothed = config.train.loss_chunk, smoothing_over_others(smoothing, words)
    if config.loss.drop_worst:
        ratio, after = config.loss.drop_worst, config.loss.drop_after
        return lowest_losses(ratio, after, chunk_size=chunk, label_smoothing=smoothed, vocab_size=words)
    return per_token(all_words(chunk_size=chunk, label_smoothing=smoothed, z_loss=0.0, vocab_size=words))


def data(config: Config, spec: BiomedGptSpec, mesh: Mesh, workdir: Path) -> RunData:
    with all_listed(workdir / LEFT_OUT):
        with leader_first("prepare the run"), progress() as advance:
            tokenizer = pair_tokenizer(config, spec, workdir)
            encoded = encode_training(config, spec, tokenizer, workdir, advance)
            answers = answers_of(config, encoded, tokenizer, workdir)
        trie = answer_trie(answers)
        planned = build_data(config, spec, tokenizer, encoded, trie)
    fixed = [each for each in encoded if isinstance(each, EncodedPairs)]
    shortened, hinted = sum(each.num_shortened for each in fixed), sum(each.num_hinted for each in fixed)
    fill = f"{planned.fill.source_share:.1%} of source and {planned.fill.target_share:.1%} of target tokens"
    return RunData(
        num_steps=planned.num_steps,
        said=f"{planned.num_steps} steps of {planned.batch_size} rows; filled: {fill}; "
        f"{left_out(planned.mixture, planned.skipped, workdir)}; cut: {shortened}; with a hint: {hinted}; "
        + (f"{len(answers)} answers" if answers else "open answers"),
        facts={"fill": asdict(planned.fill), "answers": len(answers), "shortened": shortened, "hinted": hinted},
        objective=objective(config, spec, trie),
        batches=lambda rows: planned.batches(pair_image(spec), reading(config), rows),
        sample_name=planned.sample_id,
        scorers=pair_scorers(
            spec,
            tokenizer,
            config.eval.paths,
            config.eval.split,
            train_split=config.data.split,
            protocol=protocol(config.eval.protocol),
            batch_rows=config.eval.batch_rows,
            how=answering(config, answers),
        ),
    )


def coder(config: Config, spec: BiomedGptSpec, workdir: Path) -> Coder | None:
    if config.data.pretraining:
        return None
    tokenizer, overflow = pair_tokenizer(config, spec, workdir), overflow_of(config)

    def code(sample: Sample, learned: bool) -> Coded:
        allowed = limits(config, spec) if learned else spec.limits
        return code_pairs(sample, learned, rules=spec.rules, tokenizer=tokenizer, limits=allowed, overflow=overflow)

    return code


def answering(config: Config, answers: Answers) -> Answering:
    """How a run's questions are answered while it is trained."""
    asked = config.eval
    beams = Beams(asked.beams, asked.length_penalty, asked.no_repeat, asked.min_length)
    return Answering(asked.method, beams, asked.max_new_tokens, answers)


def start(config: Config, spec: BiomedGptSpec, mesh: Mesh, say: Callable[[str], None]) -> Params:
    """All parameters of a new run: an earlier run's, then imported weights, then random ones where allowed.

    Raises:
        RunError: weights that do not fit.
    """
    before = _begun_with(config, spec)
    plain = build_model(
        replace(spec, model=before), compute_dtype=config.model.compute_dtype, remat=Remat.NONE, learning=STILL
    )
    params, origin = starting_params(
        placed(plain, mesh),
        _sources(config),
        init=plain.init,
        key=jax.random.key(config.seed),
        may_be_fresh=lambda path: config.init.random,
    )
    for line in summary(origin):
        say(line)
    if before == spec.model:
        return params
    say(f"text positions: {before.text_positions} stretched to {spec.model.text_positions}")
    return jax.jit(lambda params: extend_positions(params, before, spec.model.text_positions - UNUSED)[0])(params)


def batch_shapes(config: Config, spec: BiomedGptSpec) -> Shapes:
    """Of the largest batch that the data pipeline makes."""
    size = (spec.image_size, spec.image_size) if config.data.pictures else None
    one = empty_pair_batch(1, shapes(config)[-1], PairFields(size, pretraining=config.data.pretraining))
    del one["samples"]
    rows = config.train.batch_rows
    return {name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype) for name, array in one.items()}


def costs(config: Config, spec: BiomedGptSpec, is_trainable: Predicate) -> Costs:
    """Each token as in a full row; what sources and targets have to do with each other counts as the source's."""
    shape, size = shapes(config)[-1], spec.image_size if config.data.pictures else 0
    learns, is_open = is_trainable(EMBEDDING), not config.data.answers
    of_target, of_text, of_row = (
        train_flops(spec.model, source, shape.target, pixels, causal=False, embeddings=learns, head=is_open)
        for source, pixels in ((0, 0), (shape.source, 0), (shape.source, size))
    )
    each = {"target_tokens": of_target / shape.target, "source_tokens": (of_text - of_target) / shape.source}
    return costs_of(each | {"images": float(of_row - of_text)})


def workload(config: Config, spec: BiomedGptSpec, is_trainable: Predicate) -> Workload:
    """Of rows of the largest shape; the step that is planned has the logits of all words."""
    rows, size = config.train.batch_rows, spec.image_size if config.data.pictures else 0
    shape, learns = shapes(config)[-1], is_trainable(EMBEDDING)
    full, causal = (
        train_flops(spec.model, shape.source, shape.target, size, causal=causal, embeddings=learns, head=True)
        for causal in (False, True)
    )
    tokens, images = rows * (shape.source + shape.target), rows * bool(size)
    return Workload(tokens, images, float(rows * full), float(rows * causal))


def _begun_with(config: Config, spec: BiomedGptSpec) -> BiomedGptConfig:
    """The model whose weights a run begins with: it may have fewer text positions."""
    if config.init.run:
        return read_spec(Path(config.init.run), BiomedGptSpec).model
    return imported_config(Path(config.init.weights)) if config.init.weights else spec.model


def _sources(config: Config) -> list[Source]:
    sources = [from_run(config.init.run)] if config.init.run else []
    return [*sources, from_weights(config.init.weights)] if config.init.weights else sources


def _check_rows(config: Config, mesh: Mesh) -> None:
    context = mesh.shape["context"]
    check_divides("data.target_tokens", config.data.target_tokens, context, f"mesh context={context}")


BIOMEDGPT = Family(
    title="BiomedGPT",
    spec_type=BiomedGptSpec,
    sections=("tune", "loss"),
    check=check,
    check_rows=_check_rows,
    check_start=check_start,
    spec=spec_from_config,
    build=build,
    trainable=trainable,
    unused=unused,
    late=lambda path: False,
    sees_images=lambda config, spec: config.data.pictures,
    tokens_per_image=lambda spec: 0,
    objective=objective,
    data=data,
    start=start,
    costs=costs,
    batch_shapes=batch_shapes,
    workload=workload,
    weights=lambda config: {"whole model": config.init.weights},
    describe=describe,
    padding=padding,
    coder=coder,
    remat_part="layers",
)
