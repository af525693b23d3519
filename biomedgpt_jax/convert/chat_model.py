"""A vision-language model as transformers loads it, asked through its own chat template; no remote code is run."""

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError  # pyright: ignore[reportPrivateImportUsage]
from PIL import Image

from biomedgpt_jax.core.errors import RunError, UsageError

Parts = tuple["str | Image.Image", ...]  # a question: texts and pictures in their order
# Code and pickles stay where they are.
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_PROBE = "What is this?"


@dataclass(frozen=True)
class ChatModel:
    """`facts` are JSON: what scores must say of it."""

    model: Any
    processor: Any
    torch: Any
    stop_ids: tuple[int, ...]
    facts: Mapping[str, Any]

    def encode(self, questions: Sequence[Parts]) -> dict[str, Any]:
        """What the processor makes of them as a batch, padded on the left; `input_ids` as "tokens" int64 [b s].

        All questions must have the same number of pictures.
        """
        made = dict(_rendered(self.processor, questions))
        return {"tokens": made.pop("input_ids").numpy(), **made}

    def generate(self, batch: Mapping[str, Any], max_new_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest tokens int64 [b max_new_tokens] and how many there are before a stop token, int64 [b]."""
        inputs = {"input_ids": self.torch.from_numpy(batch["tokens"])}
        inputs |= {name: value for name, value in batch.items() if name != "tokens"}
        inputs = {name: self._placed(value) for name, value in inputs.items()}
        with self.torch.inference_mode():
            out = self.model.generate(**inputs, generation_config=self._greedy(max_new_tokens))
        width = batch["tokens"].shape[1]
        told = out[:, width:].cpu().numpy()
        tokens = np.full((len(told), max_new_tokens), self.stop_ids[0], np.int64)
        tokens[:, : told.shape[1]] = told
        stopped = np.isin(tokens, self.stop_ids)
        return tokens, np.where(stopped.any(1), stopped.argmax(1), max_new_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, self.torch.Tensor):
            return value
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)

    def _greedy(self, max_new_tokens: int) -> Any:
        """Nothing of the folder's own settings but its marks: no penalties, no sampling."""
        kind = type(self.model.generation_config)
        pad = self.processor.tokenizer.pad_token_id
        return kind(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self.stop_ids),
            pad_token_id=self.stop_ids[0] if pad is None else pad,
        )


def load_chat_model(name: str, revision: str | None, dtype: str) -> ChatModel:
    """The model on the first CUDA device, or on the CPU.

    Args:
        name: a local folder, or owner/name on the hub, of which `revision` (a branch, tag or commit) is fetched.
        dtype: of weights and pictures: "float32", "bfloat16" or "float16".

    Raises:
        UsageError: `name` is neither. RunError: a library is missing, or the folder holds no model that can be asked
            about pictures.
    """
    torch, transformers = _libraries()
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    folder, revision = _fetched(name, revision)
    processor = _loaded(transformers.AutoProcessor, folder)
    model, report = _loaded(
        transformers.AutoModelForImageTextToText, folder, dtype=getattr(torch, dtype), output_loading_info=True
    )
    left = sorted(map(str, (*report.get("missing_keys", ()), *report.get("mismatched_keys", ()))))
    if left:
        raise RunError(f"{folder}: {len(left)} tensors of the model are not in the folder, for example {left[0]}.")
    _check_pictures(processor, folder)
    processor.tokenizer.padding_side = "left"  # batches of prompts are continued at their ends
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    facts = {
        "model": name,
        "revision": revision or "a local folder",
        "model_hash": _hash(torch, model),
        "dtype": dtype,
        "description": f"{type(model).__name__} with {model.num_parameters():,} parameters, asked by transformers.",
        "asked_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "device": str(model.device),
        "image_processor": type(processor.image_processor).__name__,
        "chat_template": hashlib.sha256(str(processor.chat_template).encode()).hexdigest()[:32],
    }
    return ChatModel(model, processor, torch, _stop_ids(model, processor), facts)


def _libraries() -> tuple[Any, Any]:
    try:
        return importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as error:
        raise RunError(
            f"--hf asks a model by torch and transformers: {error}. Install them: pip install 'biomedgpt-jax[hf]'"
        ) from error


def _fetched(name: str, revision: str | None) -> tuple[Path, str]:
    """A local folder, and the commit where it came from the hub."""
    if Path(name).is_dir():
        if revision:
            raise UsageError(f"--revision={revision}: {name} is a local folder, which has no revisions.")
        return Path(name), ""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise UsageError(f"--model={name}: there is no such folder, and it is no owner/name of the hub.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        reason = _first_line(error)
        raise RunError(f"--model={name}: no such folder, and the hub does not give it ({reason}).") from error
    return folder, folder.name


def _loaded(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise RunError(
            f"{folder}: transformers cannot load it as a vision-language model. {kind.__name__}: {_first_line(error)} "
            "(Code that comes with a folder is not run.)"
        ) from error


def _check_pictures(processor: Any, folder: Path) -> None:
    """Raises RunError where a question with a picture cannot be put."""
    if getattr(processor, "image_processor", None) is None:
        raise RunError(f"{folder}: {type(processor).__name__} reads no pictures; --hf asks vision-language models.")
    if not getattr(processor, "chat_template", None):
        raise RunError(f"{folder} has no chat template, so it does not say how questions are put to it.")
    texts = []
    for parts in ((_PROBE,), (Image.new("RGB", (8, 8)), _PROBE)):
        try:
            texts.append(processor.apply_chat_template([_message(parts)], tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template may fail in any way
            raise RunError(f"{folder}: its chat template fails on a question ({_first_line(error)}).") from error
    if texts[0] == texts[1] or "'type'" in texts[1] or _PROBE not in texts[1]:
        raise RunError(f"{folder}: its chat template leaves pictures out of a question, so none can be shown to it.")


def _rendered(processor: Any, questions: Sequence[Parts]) -> Mapping[str, Any]:
    return processor.apply_chat_template(
        [[_message(parts)] for parts in questions],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


def _message(parts: Parts) -> dict[str, Any]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return {"role": "user", "content": content}


def _stop_ids(model: Any, processor: Any) -> tuple[int, ...]:
    said = model.generation_config.eos_token_id
    said = processor.tokenizer.eos_token_id if said is None else said
    return tuple(said) if isinstance(said, list | tuple) else (said,)


def _hash(torch: Any, model: Any) -> str:
    """Of names, shapes, types and bits of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()[:32]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
