"""The specification of a BiomedGPT in a run's folder: enough to build the model, ask it, and export it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from biomedgpt_jax.checkpoint.weights import TABLE, weights_table
from biomedgpt_jax.convert.fairseq_file import checkpoint_of
from biomedgpt_jax.convert.families import read_json
from biomedgpt_jax.convert.open_biomedgpt import HF_FAMILY
from biomedgpt_jax.core.config_json import from_json
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.pair_encoding import TokenLimits
from biomedgpt_jax.data.pair_tasks import PairRules, PairTask, Words
from biomedgpt_jax.layers.batch_norm import BatchNorm
from biomedgpt_jax.models.biomedgpt import Pixels, make_biomedgpt
from biomedgpt_jax.models.biomedgpt_config import PRESETS, BiomedGptConfig, Learning
from biomedgpt_jax.models.biomedgpt_positions import UNUSED
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import DTYPES, REMAT, lookup
from biomedgpt_jax.verbs.spec_file import FILE, spec_name

HALF: Pixels = (0.5, 0.5, 0.5)
# Of pixels from 0 to 1: (mean, standard deviation). The second is the official classification's.
PIXELS: dict[str, tuple[Pixels, Pixels]] = {
    "half": (HALF, HALF),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
TASKS = {"": None, **{task.value: task for task in PairTask}}
STILL = Learning(dropout=0.0, drop_path=0.0, batch_norm=BatchNorm.FROZEN)  # of a model that only answers


@dataclass(frozen=True)
class BiomedGptSpec:
    """How pictures and questions are put to a model.

    `pixels` names a row of PIXELS, `geometry` how pictures become square. `task` "": as each sample says; `classified`
    are other names of tasks that are put as classification. `words` "": limits in words as published for the task;
    else "SOURCE/TARGET". `hint` "": none.
    """

    model: BiomedGptConfig
    image_size: int
    pixels: str
    geometry: str
    task: str
    classified: tuple[str, ...]
    words: str
    hint: str
    lower_answers: bool
    source_tokens: int
    target_tokens: int

    @property
    def rules(self) -> PairRules:
        """How samples are put."""
        words = Words(*map(int, self.words.split("/"))) if self.words else None
        return PairRules(TASKS[self.task], words, self.hint or None, self.lower_answers, self.classified)

    @property
    def limits(self) -> TokenLimits:
        return TokenLimits(self.source_tokens, self.target_tokens)


def spec_from_config(config: Config) -> BiomedGptSpec:
    """Builds the specification of a run.

    Raises:
        UsageError: a name that is none, or sizes that the model cannot take.
    """
    named, data = config.model, config.data
    model = _sized(config)
    lookup("data.task", data.task, TASKS)
    lookup("data.geometry", data.geometry, {each.value: each for each in Geometry})
    lookup("model.pixels", named.pixels, PIXELS)
    _check_words(data.words)
    if named.image_size % 16 or not 16 <= named.image_size <= 16 * model.image_grid:
        raise UsageError(
            f"config.model.image_size = {named.image_size}: expected a multiple of 16 up to {16 * model.image_grid}."
        )
    places = model.text_positions - UNUSED
    if max(data.source_tokens, data.target_tokens) > places:
        raise UsageError(
            f"config.data: source_tokens={data.source_tokens} and target_tokens={data.target_tokens}, but the model "
            f"has {places} text positions. Extend it (config.model.text_positions) or shorten them."
        )
    return BiomedGptSpec(
        model=model,
        image_size=named.image_size,
        pixels=named.pixels,
        geometry=data.geometry,
        task=data.task,
        classified=tuple(data.classified),
        words=data.words,
        hint=data.hint,
        lower_answers=data.lower_answers,
        source_tokens=data.source_tokens,
        target_tokens=data.target_tokens,
    )


def as_instructions(spec: BiomedGptSpec) -> BiomedGptSpec:
    """Asked by free-form instructions, as long as the model can read, whatever it was trained on."""
    return replace(spec, task="instruction", source_tokens=spec.model.text_positions - UNUSED)


def holds_biomedgpt(folder: Path) -> bool:
    """Whether the model in a run's folder, a folder of weights or one that was exported is a BiomedGPT."""
    if (folder / FILE).is_file():
        return spec_name(folder) == BiomedGptSpec.__name__
    if (folder / TABLE).is_file():
        config = weights_table(folder)["meta"].get("config")
        return isinstance(config, dict) and config.get("type") == BiomedGptConfig.__name__
    if (folder / "config.json").is_file():
        return read_json(folder / "config.json").get("model_type") == HF_FAMILY
    return checkpoint_of(folder) != folder


def imported_config(folder: Path) -> BiomedGptConfig:
    """The model in a folder of imported weights. RunError where it holds another one."""
    return from_json(BiomedGptConfig, weights_table(folder)["meta"].get("config"), f"{folder / TABLE}: the model")


def build_model(spec: BiomedGptSpec, *, compute_dtype: str, remat: Remat, learning: Learning) -> ModelFns:
    mean, std = PIXELS[spec.pixels]
    return make_biomedgpt(
        spec.model,
        compute_dtype=lookup("model.compute_dtype", compute_dtype, DTYPES),
        remat=remat,
        learning=learning,
        image_mean=mean,
        image_std=std,
    )


def learning_model(config: Config, spec: BiomedGptSpec) -> ModelFns:
    """The model of a training, with its dropout, drop path and kind of BatchNorm."""
    kinds = {kind.value: kind for kind in BatchNorm}
    learning = Learning(
        dropout=config.model.dropout,
        drop_path=config.model.drop_path,
        batch_norm=lookup("model.batch_norm", config.model.batch_norm, kinds),
    )
    remat = lookup("model.remat.layers", config.model.remat.layers, REMAT)
    return build_model(spec, compute_dtype=config.model.compute_dtype, remat=remat, learning=learning)


def pair_image(spec: BiomedGptSpec) -> Callable[..., np.ndarray]:
    """Encoded bytes to the uint8 square that the stem takes; padding has the mean colour. It also takes `name=`."""
    red, green, blue = (int(255 * value) for value in PIXELS[spec.pixels][0])
    return partial(load_square, size=spec.image_size, geometry=Geometry(spec.geometry), background=(red, green, blue))


def _sized(config: Config) -> BiomedGptConfig:
    """The model of the weights that are named, else the preset; with more text positions where that is asked."""
    named = config.model
    if config.init.weights:
        try:
            model = imported_config(Path(config.init.weights))
        except RunError as error:
            raise UsageError(f"config.init.weights: {error}") from error
        if named.size and PRESETS.get(named.size) != model:
            raise UsageError(
                f"config.init.weights = {config.init.weights!r} is another model than config.model.size = "
                f"{named.size!r}. Its folder says the sizes: leave size empty."
            )
    else:
        model = lookup("model.size", named.size, PRESETS)
        model = replace(model, vocab_size=named.vocab_size or model.vocab_size)
    return replace(model, text_positions=named.text_positions + UNUSED) if named.text_positions else model


def _check_words(words: str) -> None:
    source, _, target = words.partition("/")
    if words and not (source.isdecimal() and target.isdecimal() and int(source) and int(target)):
        raise UsageError(f"config.data.words = {words!r}: expected SOURCE/TARGET, such as 80/20, or nothing.")
