"""Raw and prepared data sets in miniature, and tokenizers, that several test files share."""

import importlib.metadata
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.layouts import own_dataset
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.rows import ImageBytes, make_row
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.spec import Raw, RawSplit
from biomedgpt_jax.data.tokenizers import SentencePieceTokenizer, Tokenizer, load_tokenizer, train_sentencepiece

TEXT = (
    "Is there evidence of an aortic aneurysm? Which organ is shown in this image? The chest X-ray shows "
    "cardiomegaly, pleural effusion 3.5 cm; no pneumothorax. Where is the lesion located, left or right?\n"
    "An axial T2-weighted MRI of the brain: hyperintense signal (2 mm) in the basal ganglia -- infarct."
)

LETTERS = "abcdeXYZ 0123456789.,;?\n\n\t \r'\"-_(){}éüß中文字日本한국עربيخ😀👩‍⚕️\u200b\u00a0\u2028µ±²½™\ufeff\U0010ffff"

# (images as grey levels, turns); a grey level names an image, equal levels are one record.
RawSample = tuple[Sequence[int], Sequence[tuple[str, str]]]


def png(level: int) -> bytes:
    """An 8x6 image whose red channel is `level`."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (level, 0, 255 - level)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def make_jpeg() -> Callable[..., bytes]:
    """Seed -> bytes of a small JPEG; equal seeds give equal bytes."""
    return jpeg


@pytest.fixture(scope="session")
def llama3_path() -> Path:
    """Llama-3's tokenizer.model out of the installed package llama-models."""
    try:
        files = importlib.metadata.files("llama-models") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the Llama-3 vocabulary: pip install --no-deps llama-models==0.3.0")
    return next(Path(str(f.locate())) for f in files if str(f) == "llama_models/llama3/tokenizer.model")


@pytest.fixture(scope="session")
def llama3(llama3_path: Path) -> Tokenizer:
    return load_tokenizer(llama3_path)


@pytest.fixture(scope="session")
def small_sp(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    """A SentencePiece model trained on a few hundred sentences."""
    rng = np.random.default_rng(0)
    words = TEXT.split(" ")
    texts = [" ".join(rng.choice(words, 30)) for _ in range(300)]
    return train_sentencepiece(texts, tmp_path_factory.mktemp("sp") / "tokenizer.model", 600)


@pytest.fixture(scope="session")
def strange_texts() -> list[str]:
    """Random text of many scripts, with runs of spaces and line ends."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(LETTERS, k=rng.randint(0, 40))) for _ in range(800)]
    return texts + [" " * k + "liver" + "  " * k + "\n" * k + "x" for k in range(5)] + ["", " ", "\n", "a<|eot_id|>b"]


@pytest.fixture
def make_split(tmp_path: Path) -> Callable[..., PreparedSplit]:
    """Writes samples (name, shard_rows may be set) as a prepared folder and opens its only split."""

    def make(samples: Sequence[RawSample], name: str = "set", shard_rows: int = 10_000) -> PreparedSplit:
        rows = [
            make_row(
                "raw",
                number,
                id=f"{name}-{number}",
                images=[ImageBytes(png(level), f"{level}.png") for level in levels],
                turns=turns,
                meta={},
            )
            for number, (levels, turns) in enumerate(samples)
        ]
        raw = Raw({"train": RawSplit(lambda: iter(rows), len(rows))}, (), identity=name)
        spec = replace(own_dataset(name, lambda _: raw), published={"train": len(rows)})
        prepare_dataset(spec, tmp_path / name, source_dir=tmp_path, shard_rows=shard_rows)
        return PreparedSplit(tmp_path / name, "train")

    return make
