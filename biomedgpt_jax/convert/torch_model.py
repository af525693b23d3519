"""Exported folders as PyTorch models in float32; our own files are loaded without remote code."""

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert import hoptimus
from biomedgpt_jax.convert.export import LLAMA3MED, PEFT
from biomedgpt_jax.convert.export_adapter import BASE, CONFIG
from biomedgpt_jax.convert.export_llama3med import MODELING_FILES
from biomedgpt_jax.convert.families import read_config
from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.convert.tensors import SafetensorsFolder
from biomedgpt_jax.convert.tower_json import tower_json
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.vit import VitConfig

PACKAGE = "biomedgpt_exported_model"
Encode = Callable[[np.ndarray], dict[str, np.ndarray]]  # pixels float32 [b 3 h w] -> features by name


def libraries(*names: str) -> list[Any]:
    """The modules of that name, torch and transformers or peft.

    Raises:
        RunError: one is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise RunError(
            f"The parity check runs the export with {', '.join(names)}: {error}. Install them with "
            "`pip install 'biomedgpt-jax[hf]'` (and `pip install peft` for adapters), or leave the check out "
            "(--noverify); the weights are read back all the same."
        ) from error


@contextmanager
def exported_model(folder: str | Path) -> Iterator[Any]:
    """The language model of an exported folder, a whole model or a decoder alone; an adapter with its base.

    Raises:
        RunError: a library is missing, or tensors are left over or missing.
    """
    folder = Path(folder)
    if (folder / CONFIG).is_file():
        (peft,) = libraries("peft")
        with exported_model(folder / BASE) as base:
            yield peft.PeftModel.from_pretrained(base, folder).eval()
        return
    torch, transformers = libraries("torch", "transformers")
    architecture = architecture_of(folder)
    with _package(folder) as module:
        owner = module("modeling_llama3med") if architecture == LLAMA3MED else transformers
        if not hasattr(owner, architecture):
            raise RunError(f"{folder / 'config.json'}: architecture {architecture!r} is none that we export.")
        yield _loaded(getattr(owner, architecture), folder, torch)


@contextmanager
def exported_tower(folder: str | Path) -> Iterator[Encode]:
    """A tower alone, as a function of normalised pixels: "tower" [b n d], with CLIP also "pooled" [b d].

    transformers has no H-optimus-0, and timm need not be installed: our own PyTorch file computes it.

    Raises:
        RunError: as `exported_model`.
    """
    folder, (torch, transformers) = Path(folder), libraries("torch", "transformers")
    architecture = architecture_of(folder)
    with _package(folder) as module:
        if architecture == hoptimus.ARCHITECTURE:
            model = _h_optimus(module("vit_llama3med"), folder, torch)

            def encode(pixels: np.ndarray) -> dict[str, np.ndarray]:
                with torch.no_grad():
                    return {"tower": torch.cat(model(torch.from_numpy(pixels)), dim=1).numpy()}
        else:
            model = _loaded(getattr(transformers, architecture), folder, torch)

            def encode(pixels: np.ndarray) -> dict[str, np.ndarray]:
                with torch.no_grad():
                    out = model(pixel_values=torch.from_numpy(pixels))
                pooled = {"pooled": out.pooler_output.numpy()} if architecture == "CLIPVisionModel" else {}
                return {"tower": out.last_hidden_state.numpy(), **pooled}

        yield encode


def architecture_of(folder: Path) -> str:
    """The class that loads the folder, as its configuration names it."""
    if (folder / CONFIG).is_file():
        return PEFT
    config = read_config(folder)
    return config.get("architecture") or config.get("architectures", [""])[0]


@contextmanager
def _package(folder: Path) -> Iterator[Callable[[str], Any]]:
    """Imports the PyTorch files of a folder, or of ours where it has none, as a package that is forgotten after."""
    try:
        sys.modules[PACKAGE] = package = types.ModuleType(PACKAGE)
        here = Path(__file__).parent / "modeling"
        package.__path__ = [str(folder if (folder / MODELING_FILES[0]).is_file() else here)]
        yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]


def _loaded(kind: Any, folder: Path, torch: Any) -> Any:
    model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    left = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if left:
        raise RunError(f"{folder}: transformers did not load it without remainder: {left}")
    return model.eval()


def _h_optimus(module: Any, folder: Path, torch: Any) -> Any:
    config = import_folder(folder).config
    assert isinstance(config, VitConfig)
    model = module.ViT(module.vit_facts(tower_json(config)), -1, True)
    tensors = SafetensorsFolder(folder)
    model.load_state_dict({key: torch.from_numpy(tensors[key].astype(np.float32)) for key in tensors})
    return model.eval()
