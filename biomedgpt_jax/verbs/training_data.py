"""A run's tokenizer and training data, from its configuration."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.batch_iterator import Reading
from biomedgpt_jax.data.batches import RowShape
from biomedgpt_jax.data.encoded import encode_split
from biomedgpt_jax.data.features import FeatureShape
from biomedgpt_jax.data.mixture import Part, repeats_for
from biomedgpt_jax.data.pipeline import TrainData, build_train_data
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import Overflow
from biomedgpt_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer, train_sentencepiece
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import ModelSpec, lookup, template
from biomedgpt_jax.verbs.progress import Advance
from biomedgpt_jax.verbs.training_checks import begun

TOKENIZER = "tokenizer"  # folder in a workdir
READ_AHEAD = 4  # batches ready before they are asked for
IMAGE_CACHE_BYTES = 1 << 30


def splits(config: Config) -> list[PreparedSplit]:
    """Raises UsageError where no data is named."""
    if not config.data.paths:
        raise UsageError("config.data.paths is empty; name prepared data, for example ...:data=data/vqa_rad")
    return [PreparedSplit(path, config.data.split) for path in config.data.paths]


def run_tokenizer(config: Config, workdir: Path, first: Callable[[Config, Path], Tokenizer] | None = None) -> Tokenizer:
    """The tokenizer of the run, kept in its workdir: on resume it is the one that it began with.

    Args:
        first: finds that of a new run, which may write into the workdir; None: as a Llama3-Med's.

    Raises:
        UsageError: the configuration names none.
    """
    kept = workdir / TOKENIZER
    if begun(workdir):
        return load_tokenizer(kept)
    tokenizer = (first or _first_tokenizer)(config, workdir)
    if kept.resolve() not in {file.resolve().parent for file in tokenizer.files}:
        # A call that failed before its first checkpoint may have left one of other settings.
        shutil.rmtree(kept, ignore_errors=True)
    save_tokenizer(tokenizer, kept)
    return load_tokenizer(kept)


def training_data(
    config: Config,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    workdir: Path,
    advance: Advance,
    features: FeatureShape | None = None,
) -> TrainData:
    """Encodes and plans all batches of the run; their slots hold `features`, or images.

    Raises:
        UsageError: settings that do not fit each other. DataError: samples that cannot be used, by name.
    """
    if tokenizer.vocab_size > spec.model.decoder.vocab_size:
        raise UsageError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, the decoder's embedding {spec.model.decoder.vocab_size} "
            "rows. They are not of the same model: set config.tokenizer.path."
        )
    overflow = overflow_of(config)
    encoded = [
        encode_split(
            split,
            template(spec),
            tokenizer,
            workdir / "encoded",
            skip_rejected=overflow is Overflow.SKIP,
            progress=lambda done, total, name=split.name: advance(f"encode {name}", done, total),
        )
        for split in splits(config)
    ]
    weights = tuple(config.data.weights)
    if len(weights) != len(encoded):
        raise UsageError(f"config.data.weights has {len(weights)} numbers for {len(encoded)} config.data.paths.")
    repeats = repeats_for(weights, [len(each) for each in encoded]) if len(encoded) > 1 else [1.0]
    return build_train_data(
        [Part(each, share) for each, share in zip(encoded, repeats, strict=True)],
        row_shape(spec, tokenizer, config.data.row_tokens, config.data.image_slots, features),
        batch_size=config.train.batch_rows,
        num_epochs=config.train.epochs,
        seed=config.seed,
        pack=config.data.pack,
        overflow=overflow,
    )


def overflow_of(config: Config) -> Overflow:
    return lookup("data.on_overflow", config.data.on_overflow, {kind.value: kind for kind in Overflow})


def row_shape(
    spec: ModelSpec, tokenizer: Tokenizer, row_tokens: int, image_slots: int, features: FeatureShape | None = None
) -> RowShape:
    size, tokens = spec.model.image_size, spec.model.tokens_per_image
    return RowShape(row_tokens, image_slots, tokens, (size, size), tokenizer.image_token_id, features)


def reading(config: Config) -> Reading:
    return Reading(
        workers=config.data.workers,
        threads=max(1, config.data.threads),
        ahead=READ_AHEAD,
        image_cache_bytes=IMAGE_CACHE_BYTES if config.data.cache_images else 0,
    )


def _first_tokenizer(config: Config, workdir: Path) -> Tokenizer:
    if config.init.run:
        return load_tokenizer(Path(config.init.run) / TOKENIZER)
    if config.tokenizer.path:
        return load_tokenizer(config.tokenizer.path)
    if config.tokenizer.train_vocab_size:
        workdir.mkdir(parents=True, exist_ok=True)
        return train_sentencepiece(_texts(config), workdir / "trained.model", config.tokenizer.train_vocab_size)
    folder = config.init.weights or config.model.decoder
    if Path(folder).is_dir():
        return load_tokenizer(folder)
    raise UsageError(
        "There is no tokenizer: set config.tokenizer.path to a file or folder, or config.model.decoder to a weights "
        "folder that holds one."
    )


def _texts(config: Config) -> Iterator[str]:
    for split in splits(config):
        for number in range(len(split)):
            for turn in split[number].turns:
                yield turn.question
                yield turn.answer
