"""The certificate of an export: what others load from the folder computes what our model computes.

`verify` runs the folder with transformers and compares logits and greedy answers; `reimport` needs neither
torch nor transformers and compares the weights bit for bit; `write_certificate` puts both into parity.json.
"""

import importlib
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert.export import Form
from biomedgpt_jax.convert.importer import ModelConfig, import_folder, read_config
from biomedgpt_jax.convert.processing import write_json
from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.types import Params

CERTIFICATE = "parity.json"


@dataclass(frozen=True)
class Prompt:
    """One question as the model reads it, ending where the answer begins."""

    id: str
    tokens: np.ndarray  # int32 [s]; the image token at each place that an image feature takes
    images: np.ndarray  # uint8 [i h w 3], in order


@dataclass(frozen=True)
class PromptParity:
    id: str
    max_abs: float  # largest difference of a logit
    max_rel: float  # the same, over the largest logit of ours
    argmax_agreement: float  # share of positions whose likeliest token is the same
    greedy_equal: bool


@dataclass(frozen=True)
class Parity:
    """The outcome; `passed` says that all of it is within `tolerance`."""

    passed: bool
    tolerance: float  # of max_rel
    max_abs: float
    max_rel: float
    argmax_agreement: float
    greedy_equal: bool
    prompts: tuple[PromptParity, ...]
    architecture: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Reimport:
    """The outcome of reading an export with our own importer."""

    passed: bool
    leaves: int
    unequal: tuple[str, ...]  # paths whose bits differ


def verify(
    folder: str | Path,
    prompts: Sequence[Prompt],
    logits: Callable[[Prompt], np.ndarray],
    greedy: Callable[[Prompt, int], Sequence[int]],
    *,
    new_tokens: int,
    tolerance: float = 1e-4,
) -> Parity:
    """Loads the folder with transformers and compares in float32.

    Args:
        logits: ours, float32 [s v] of all positions of a prompt.
        greedy: ours, the ids of the answer, at most so many.
        new_tokens: length of the answers compared.
        tolerance: of the largest difference over the largest logit.

    Raises:
        RunError: torch or transformers are not installed, or the folder does not load without remainder.
    """
    folder = Path(folder)
    torch, transformers = _libraries()
    with exported_model(folder) as model:
        results = tuple(
            _compare(torch, model, folder, prompt, logits(prompt), greedy(prompt, new_tokens), new_tokens)
            for prompt in prompts
        )
    if not results:
        raise RunError(f"{folder}: no prompt was given to compare.")
    max_rel = max(result.max_rel for result in results)
    agreement = min(result.argmax_agreement for result in results)
    greedy_equal = all(result.greedy_equal for result in results)
    return Parity(
        # Written so that a NaN does not pass.
        passed=bool(max_rel <= tolerance and agreement == 1 and greedy_equal),
        tolerance=tolerance,
        max_abs=max(result.max_abs for result in results),
        max_rel=max_rel,
        argmax_agreement=agreement,
        greedy_equal=greedy_equal,
        prompts=results,
        architecture=read_config(folder)["architectures"][0],
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


def reimport(folder: str | Path, params: Params, config: ModelConfig, dtype: str = "float32") -> Reimport:
    """Reads an export with our importer and compares the weights bit for bit.

    Args:
        params: what was exported.
        dtype: in which it was exported.

    Raises:
        RunError: the folder cannot be read, or its configuration is another.
    """
    imported = import_folder(folder)
    differences = _differences(to_json(imported.config), to_json(config))
    if differences:
        raise RunError(f"{folder}: its configuration is another than that of the model: {'; '.join(differences)}.")
    expected = leaf_paths(params)
    unequal, count = [], 0
    for path, array in imported.leaves:
        count += 1
        same = np.asarray(expected[path]).astype(dtype)
        if array.dtype != same.dtype or array.tobytes() != same.tobytes():
            unequal.append(path)
    return Reimport(not unequal, count, tuple(sorted(unequal)))


def write_certificate(folder: str | Path, reimported: Reimport, parity: Parity | None) -> None:
    """Writes parity.json into the folder; `parity` is None where torch and transformers are not there."""
    content = {
        "passed": reimported.passed and (parity is None or parity.passed),
        "reimport": asdict(reimported),
        "transformers": None if parity is None else asdict(parity),
    }
    write_json(Path(folder) / CERTIFICATE, content)


@contextmanager
def exported_model(folder: str | Path) -> Iterator[Any]:
    """The PyTorch model of an exported folder, in float32; our own files are loaded without remote code.

    Raises:
        RunError: torch or transformers are missing, or tensors are left over or missing.
    """
    folder = Path(folder)
    torch, transformers = _libraries()
    architecture = read_config(folder).get("architectures", [""])[0]
    package = "biomedgpt_exported_model"
    try:
        if architecture == Form.LLAMA3MED.value:
            sys.modules[package] = module = types.ModuleType(package)
            module.__path__ = [str(folder)]
            owner: Any = importlib.import_module(f"{package}.modeling_llama3med")
        else:
            owner = transformers
        if not hasattr(owner, architecture):
            raise RunError(f"{folder / 'config.json'}: architecture {architecture!r} is none that we export.")
        model, report = getattr(owner, architecture).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        left = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
        if left:
            raise RunError(f"{folder}: transformers did not load it without remainder: {left}")
        yield model.eval()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]


def _compare(
    torch: Any,
    model: Any,
    folder: Path,
    prompt: Prompt,
    ours: np.ndarray,
    answer: Sequence[int],
    new_tokens: int,
) -> PromptParity:
    inputs: dict[str, Any] = {"input_ids": torch.tensor(prompt.tokens[None], dtype=torch.long)}
    if len(prompt.images):
        inputs["pixel_values"] = torch.from_numpy(_normalised(folder, prompt.images))
    stop = json.loads((folder / "generation_config.json").read_bytes())["eos_token_id"]
    with torch.no_grad():
        theirs = model(**inputs).logits[0].numpy()
        mask = torch.ones_like(inputs["input_ids"])
        out = model.generate(
            **inputs, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, eos_token_id=stop
        )
    if theirs.shape != ours.shape:
        raise RunError(f"{folder}: logits of {prompt.id} have shape {theirs.shape}, ours {ours.shape}.")
    written = out[0].tolist()
    # LLaVA gives the prompt back with the answer.
    if written[: len(prompt.tokens)] == prompt.tokens.tolist():
        written = written[len(prompt.tokens) :]
    difference = float(np.abs(theirs - ours).max())
    return PromptParity(
        id=prompt.id,
        max_abs=difference,
        max_rel=difference / float(np.abs(ours).max()),
        argmax_agreement=float((theirs.argmax(-1) == ours.argmax(-1)).mean()),
        greedy_equal=_until(written, stop) == _until(list(map(int, answer))[:new_tokens], stop),
    )


def _differences(found: Any, expected: Any, where: str = "model") -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        return [line for key in found for line in _differences(found[key], expected[key], f"{where}.{key}")]
    return [] if found == expected else [f"{where}: found {found!r}, expected {expected!r}"]


def _normalised(folder: Path, images: np.ndarray) -> np.ndarray:
    """uint8 [i h w 3] -> float32 [i 3 h w], by the numbers of the folder's image processor."""
    settings: Mapping[str, Any] = json.loads((folder / "preprocessor_config.json").read_bytes())
    mean, std = (np.asarray(settings[name], np.float32) for name in ("image_mean", "image_std"))
    scaled = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _until(ids: list[int], stop: Sequence[int]) -> list[int]:
    ends = [place for place, each in enumerate(ids) if each in stop]
    return ids[: ends[0]] if ends else ids


def _libraries() -> tuple[Any, Any]:
    try:
        return importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as error:
        raise RunError(
            f"The parity check runs the export with PyTorch: {error}. Install both with "
            "`pip install 'biomedgpt-jax[hf]'`, or check the weights alone (reimport)."
        ) from error
