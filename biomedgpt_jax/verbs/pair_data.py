"""Tokenizer, answers and training data of a BiomedGPT's run, from its configuration."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from biomedgpt_jax.convert.processing import ANSWERS
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.answer_lists import listed_answers, training_answers
from biomedgpt_jax.data.augment import AUGMENTATIONS, Augmentation, AugmentedPairs
from biomedgpt_jax.data.biomedgpt_tokens import BINS, CODES, PUBLISHED_WORDS, BiomedGptTokens, train_biomedgpt_tokens
from biomedgpt_jax.data.encoded_pairs import EncodedPairs, Pairs, encode_split_pairs
from biomedgpt_jax.data.mixture import Part, repeats_for
from biomedgpt_jax.data.pair_batches import PairShape
from biomedgpt_jax.data.pair_encoding import TokenLimits
from biomedgpt_jax.data.pair_pipeline import PairData, PairSettings, build_pair_data
from biomedgpt_jax.data.pretraining_pairs import PretrainingPairs, pretraining_pairs
from biomedgpt_jax.data.pretraining_tasks import PretrainingSettings
from biomedgpt_jax.data.tokenizers import Tokenizer, load_tokenizer
from biomedgpt_jax.data.trie import Trie, build_trie
from biomedgpt_jax.verbs.biomedgpt_spec import BiomedGptSpec
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import lookup
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.training_data import TOKENIZER, overflow_of, run_tokenizer, splits

PUBLISHED = PUBLISHED_WORDS + CODES + BINS
FROM_TRAINING = "train"  # as config.data.answers: those of the training splits
Answers = tuple[tuple[int, ...], ...]
Encoded = EncodedPairs | PretrainingPairs


def pair_tokenizer(config: Config, spec: BiomedGptSpec, workdir: Path) -> BiomedGptTokens:
    """The tokenizer of the run, kept in its workdir.

    Raises:
        UsageError: the configuration names none, or one of another model.
    """
    published = bool(config.init.weights)
    tokenizer, words = run_tokenizer(config, workdir, _first), spec.model.vocab_size
    return checked_tokenizer(tokenizer, words, workdir / TOKENIZER, published=published)


def checked_tokenizer(tokenizer: Tokenizer, words: int, folder: Path, *, published: bool) -> BiomedGptTokens:
    """The tokenizer, if the model can be of it.

    Args:
        words: that the model knows.
        published: the weights are imported ones, of which those of the published size know the published words alone.

    Raises:
        UsageError: a tokenizer of another kind, with more words than the model has, or with others.
    """
    if not isinstance(tokenizer, BiomedGptTokens):
        raise UsageError(f"{folder} holds no tokenizer of a BiomedGPT: expected BART's vocab.json and merges.txt.")
    if tokenizer.vocab_size > words or (published and tokenizer.vocab_size < words == PUBLISHED):
        raise UsageError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {words}. They are not of the "
            "same model: set config.tokenizer.path, or config.model.vocab_size of a model from scratch."
        )
    return tokenizer


def encode_training(
    config: Config, spec: BiomedGptSpec, tokenizer: BiomedGptTokens, workdir: Path, advance: Advance
) -> list[Encoded]:
    """The training splits as token ids. DataError names samples that cannot be used."""
    overflow, folder, view = overflow_of(config), workdir / "encoded", _view(config)
    encoded: list[Encoded] = []
    for split in splits(config):

        def told(done: int, total: int, name: str = split.name) -> None:
            advance(f"encode {name}", done, total)

        if config.data.pretraining:
            settings = PretrainingSettings(spec.image_size, mask_ratio=config.data.mask_ratio, flips=config.data.flips)
            encoded.append(pretraining_pairs(split, tokenizer, settings, view, folder, overflow, told))
        else:
            encoded.append(
                encode_split_pairs(split, spec.rules, tokenizer, limits(config, spec), folder, overflow, told)
            )
    return encoded


def answers_of(config: Config, encoded: list[Encoded], tokenizer: BiomedGptTokens, workdir: Path) -> Answers:
    """The closed list of the run, () where answers are open; kept in the workdir for whoever asks the model later."""
    named = config.data.answers
    if not named:
        return ()
    fixed = [each for each in encoded if isinstance(each, EncodedPairs)]
    found = training_answers(fixed) if named == FROM_TRAINING else _listed(config, tokenizer)
    (workdir / ANSWERS).write_text(json.dumps([list(answer) for answer in found]) + "\n")
    return tuple(found)


def kept_answers(workdir: Path) -> Answers:
    """The closed list of a run that was trained on one; () of any other folder. RunError where it is damaged."""
    file = workdir / ANSWERS
    if not file.is_file():
        return ()
    try:
        return tuple(tuple(map(int, answer)) for answer in json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise RunError(f"{file}: expected lists of token ids ({error}). Copy it again from its run.") from error


def build_data(
    config: Config, spec: BiomedGptSpec, tokenizer: BiomedGptTokens, encoded: list[Encoded], trie: Trie | None
) -> PairData:
    """Plans all batches of the run.

    Raises:
        UsageError: settings that do not fit each other. DataError: pairs that no batch can hold.
    """
    weights = tuple(config.data.weights)
    if len(weights) != len(encoded):
        raise UsageError(f"config.data.weights has {len(weights)} numbers for {len(encoded)} config.data.paths.")
    # Weights are of rows, of which pre-training makes several examples.
    shares = [
        weight * (each.examples_per_row if isinstance(each, PretrainingPairs) else 1)
        for weight, each in zip(weights, encoded, strict=True)
    ]
    repeats = repeats_for(shares, [len(each) for each in encoded]) if len(encoded) > 1 else [1.0]
    return build_pair_data(
        [Part(_seen(config, spec, each), share) for each, share in zip(encoded, repeats, strict=True)],
        tokenizer,
        PairSettings(
            buckets=tuple(shapes(config)),
            image_size=(spec.image_size, spec.image_size),
            trie=trie,
            noise=config.data.noise,
            even=config.data.pretraining,
            patches_kept=config.data.patches_kept,
        ),
        batch_size=config.train.batch_rows,
        num_epochs=config.train.epochs,
        seed=config.seed,
        overflow=overflow_of(config),
    )


def _seen(config: Config, spec: BiomedGptSpec, pairs: Encoded) -> Pairs:
    """The pairs with their pictures varied as the configuration says. DataError where that makes a text false."""
    view = _view(config)
    if view is None or isinstance(pairs, PretrainingPairs):  # whose pictures are varied by what is asked of them
        return pairs
    return AugmentedPairs(pairs, view, spec.image_size)


def _view(config: Config) -> Augmentation | None:
    named = config.data.augmentation
    return lookup("data.augmentation", named, AUGMENTATIONS) if named else None


def limits(config: Config, spec: BiomedGptSpec) -> TokenLimits:
    """Of what is learned: an answer may have a limit of its own."""
    return replace(spec.limits, answer=config.data.answer_tokens)


def shapes(config: Config) -> list[PairShape]:
    """The static shapes of training batches, the largest last."""
    data = config.data
    sources = sorted({*(size for size in data.source_buckets if size < data.source_tokens), data.source_tokens})
    return [PairShape(source, data.target_tokens) for source in sources]


def answer_trie(answers: Answers) -> Trie | None:
    return build_trie(answers) if answers else None


def _listed(config: Config, tokenizer: BiomedGptTokens) -> list[tuple[int, ...]]:
    if not Path(config.data.answers).is_file():
        raise UsageError(
            f"config.data.answers = {config.data.answers!r}: expected {FROM_TRAINING!r}, a file with an answer on each "
            "line, or nothing."
        )
    return listed_answers(config.data.answers, tokenizer, config.data.lower_answers)


def _first(config: Config, workdir: Path) -> Tokenizer:
    named = config.tokenizer
    if config.init.run:
        return load_tokenizer(Path(config.init.run) / TOKENIZER)
    if named.path:
        return load_tokenizer(named.path)
    if named.train_words:
        folder = workdir / "trained_tokenizer"
        return train_biomedgpt_tokens(_texts(config), folder, named.train_words, named.codes, named.bins)
    if config.init.weights:
        return load_tokenizer(config.init.weights)
    raise UsageError(
        "There is no tokenizer: set config.tokenizer.path to a folder with BART's vocab.json and merges.txt, or "
        "config.tokenizer.train_words for one that is trained on the texts."
    )


def _texts(config: Config) -> Iterator[str]:
    """Questions and answers as the model reads them: with a space in front."""
    for split in splits(config):
        for sample in split.samples(range(len(split))):
            for turn in sample.turns:
                yield f" {turn.question.lower()}"
                yield f" {turn.answer.lower() if config.data.lower_answers else turn.answer}"
