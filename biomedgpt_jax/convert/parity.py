"""The certificate of an export: what others load from the folder computes what our model computes.

Compared stage by stage: features of the tower, vectors of the connector, logits, greedy answers. Both sides compute in
float32 with the values that the folder holds, so that a narrow dtype is no excuse for a difference.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert.export_adapter import BASE, CONFIG
from biomedgpt_jax.convert.processing import PREPROCESSOR, write_json
from biomedgpt_jax.convert.reimport import Reimport
from biomedgpt_jax.convert.torch_model import architecture_of, exported_model, exported_tower, libraries
from biomedgpt_jax.core.errors import RunError

CERTIFICATE = "parity.json"
TOLERANCE = 1e-4
# Modules whose input is the tower's features and whose output is what the decoder reads.
CONNECTORS = ("multi_modal_projector", "connector")


@dataclass(frozen=True)
class Prompt:
    """One question as the model reads it, ending where the answer begins."""

    id: str
    tokens: np.ndarray  # int32 [s]; the image token at each place that an image feature takes
    images: np.ndarray  # uint8 [i h w 3], in order


@dataclass(frozen=True)
class Ours:
    """What our model computes of a prompt."""

    stages: Callable[[Prompt], Mapping[str, np.ndarray]]  # "tower", "connector" (of images), "logits" [s v]
    greedy: Callable[[Prompt, int], Sequence[int]]  # ids of the answer, at most so many


@dataclass(frozen=True)
class Stage:
    """How far the two are apart in one stage, over all prompts."""

    name: str
    max_abs: float
    max_rel: float  # over the largest value of ours
    argmax_agreement: float  # share of vectors whose largest element is the same


@dataclass(frozen=True)
class PromptParity:
    """Hashes stand for question and answer, which may be about a patient."""

    id: str
    tokens_sha256: str
    answer_sha256: str
    greedy_equal: bool


@dataclass(frozen=True)
class Parity:
    """The outcome; `passed` says that all of it is within `tolerance`."""

    passed: bool
    tolerance: float  # of max_rel in each stage
    max_abs: float  # of the last stage: the logits, or a tower's features
    max_rel: float
    argmax_agreement: float
    greedy_equal: bool | None  # None: there is no text
    stages: tuple[Stage, ...]
    prompts: tuple[PromptParity, ...]
    architecture: str
    versions: dict[str, str]


def verify(
    folder: str | Path, prompts: Sequence[Prompt], ours: Ours, *, new_tokens: int, tolerance: float = TOLERANCE
) -> Parity:
    """Loads a whole model, a decoder or an adapter with its base, and compares in float32.

    Args:
        new_tokens: length of the answers compared.
        tolerance: of the largest difference over the largest value.

    Raises:
        RunError: torch, transformers or peft are not installed, or the folder does not load without remainder.
    """
    folder, (torch,) = Path(folder), libraries("torch")
    if not prompts:
        raise RunError(f"{folder}: no prompt was given to compare.")
    measured: dict[str, list[Stage]] = {}
    told = []
    with exported_model(folder) as model:
        for prompt in prompts:
            inputs = _inputs(torch, folder, prompt)
            found = _their_stages(torch, model, inputs)
            for name, values in ours.stages(prompt).items():
                measured.setdefault(name, []).append(_apart(folder, name, found[name], values))
            answers = _answer(torch, model, folder, prompt, inputs, new_tokens), ours.greedy(prompt, new_tokens)
            told.append(_told(prompt, folder, *answers))
    stages = tuple(_worst(each) for each in measured.values())
    greedy_equal = all(each.greedy_equal for each in told)
    return _parity(folder, stages, tuple(told), greedy_equal, tolerance)


def verify_tower(
    folder: str | Path,
    images: np.ndarray,
    ours: Mapping[str, np.ndarray],
    *,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Loads a tower alone and compares its features of images uint8 [b h w 3].

    Args:
        ours: as `exported_tower` names them.

    Raises:
        RunError: as `verify`.
    """
    folder = Path(folder)
    with exported_tower(folder) as encode:
        found = encode(_normalised(folder, images))
    stages = tuple(_apart(folder, name, values, ours[name]) for name, values in found.items())
    return _parity(folder, stages, (), None, tolerance)


def write_certificate(
    folder: str | Path, reimported: Reimport, parity: Parity | None, *, rounding_passed: bool = True, **facts: Any
) -> bool:
    """Writes parity.json into the folder and returns whether it passed.

    Args:
        parity: None where nothing was compared; `facts` say why.
        rounding_passed: whether a narrower dtype leaves the model what it was.
        facts: further entries, such as the dtype.
    """
    passed = reimported.passed and rounding_passed and (parity is None or parity.passed)
    content = {
        "passed": passed,
        **facts,
        "reimport": asdict(reimported),
        "transformers": None if parity is None else asdict(parity),
    }
    write_json(Path(folder) / CERTIFICATE, content)
    return passed


def stage(name: str, theirs: np.ndarray, ours: np.ndarray) -> Stage:
    """Of two arrays of one shape, vectors along the last axis."""
    difference = float(np.abs(theirs - ours).max())
    agreement = float((theirs.argmax(-1) == ours.argmax(-1)).mean())
    return Stage(name, difference, difference / float(np.abs(ours).max()), agreement)


def _parity(
    folder: Path,
    stages: tuple[Stage, ...],
    prompts: tuple[PromptParity, ...],
    greedy_equal: bool | None,
    tolerance: float,
) -> Parity:
    last, names = stages[-1], ["torch", "transformers", *(["peft"] if (folder / CONFIG).is_file() else [])]
    close = all(each.max_rel <= tolerance for each in stages)  # a NaN is not
    return Parity(
        passed=bool(close and (greedy_equal is None or (greedy_equal and last.argmax_agreement == 1))),
        tolerance=tolerance,
        max_abs=last.max_abs,
        max_rel=last.max_rel,
        argmax_agreement=last.argmax_agreement,
        greedy_equal=greedy_equal,
        stages=stages,
        prompts=prompts,
        architecture=architecture_of(folder),
        versions={name: module.__version__ for name, module in zip(names, libraries(*names), strict=True)}
        | {"jax": importlib.import_module("jax").__version__},
    )


def _inputs(torch: Any, folder: Path, prompt: Prompt) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": torch.tensor(prompt.tokens[None], dtype=torch.long)}
    if len(prompt.images):
        inputs["pixel_values"] = torch.from_numpy(_normalised(_model_folder(folder), prompt.images))
    return inputs


def _their_stages(torch: Any, model: Any, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    with torch.no_grad(), _watched(model) as seen:
        logits = model(**inputs).logits[0].numpy()
    return {**seen, "logits": logits}


@contextmanager
def _watched(model: Any) -> Iterator[dict[str, np.ndarray]]:
    """What goes into the connector, and out, in the calls made inside."""
    seen: dict[str, np.ndarray] = {}
    named = [(name, module) for name, module in model.named_modules() if name.rsplit(".", 1)[-1] in CONNECTORS]

    def keep(_: Any, given: tuple[Any, ...], out: Any) -> None:
        seen["tower"], seen["connector"] = given[0].numpy(), out.numpy()

    hooks = [module.register_forward_hook(keep) for _, module in sorted(named, key=lambda each: len(each[0]))[:1]]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _answer(torch: Any, model: Any, folder: Path, prompt: Prompt, inputs: dict[str, Any], new_tokens: int) -> list[int]:
    mask = torch.ones_like(inputs["input_ids"])
    stop = _stop_ids(folder)
    with torch.no_grad():
        out = model.generate(
            **inputs, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, eos_token_id=stop or None
        )
    written = out[0].tolist()
    # LLaVA gives the prompt back with the answer.
    if written[: len(prompt.tokens)] == prompt.tokens.tolist():
        written = written[len(prompt.tokens) :]
    return written


def _told(prompt: Prompt, folder: Path, theirs: list[int], ours: Sequence[int]) -> PromptParity:
    stop = _stop_ids(folder)
    answer = _until(list(map(int, ours)), stop)
    return PromptParity(
        id=prompt.id,
        tokens_sha256=_hash(prompt.tokens.tolist()),
        answer_sha256=_hash(answer),
        greedy_equal=_until(theirs, stop) == answer,
    )


def _apart(folder: Path, name: str, theirs: np.ndarray, ours: np.ndarray) -> Stage:
    if theirs.size != ours.size or theirs.shape[-1] != ours.shape[-1]:
        raise RunError(f"{folder}: values of the stage {name!r} have shape {theirs.shape}, ours {ours.shape}.")
    return stage(name, theirs.reshape(ours.shape), ours)


def _worst(stages: Sequence[Stage]) -> Stage:
    # np.max keeps a NaN, which max() may drop.
    return Stage(
        name=stages[0].name,
        max_abs=float(np.max([each.max_abs for each in stages])),
        max_rel=float(np.max([each.max_rel for each in stages])),
        argmax_agreement=min(each.argmax_agreement for each in stages),
    )


def _normalised(folder: Path, images: np.ndarray) -> np.ndarray:
    """uint8 [i h w 3] -> float32 [i 3 h w], by the numbers of the folder's image processor."""
    settings: Mapping[str, Any] = json.loads((folder / PREPROCESSOR).read_bytes())
    mean, std = (np.asarray(settings[name], np.float32) for name in ("image_mean", "image_std"))
    scaled = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _stop_ids(folder: Path) -> list[int]:
    """None of them in a decoder's folder without a tokenizer."""
    file = _model_folder(folder) / "generation_config.json"
    return json.loads(file.read_bytes())["eos_token_id"] if file.is_file() else []


def _model_folder(folder: Path) -> Path:
    return folder / BASE if (folder / CONFIG).is_file() else folder


def _until(ids: list[int], stop: Sequence[int]) -> list[int]:
    ends = [place for place, each in enumerate(ids) if each in stop]
    return ids[: ends[0]] if ends else ids


def _hash(ids: list[int]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()
