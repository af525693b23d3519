"""Images per second on one core, ours against torch: python benchmarks/image_pipeline.py

Ours is the iterator that training uses (Grain, ArrayRecord, Pillow, uint8 batches; the device normalises). Theirs is a
torch DataLoader over the same files with transformers' CLIPImageProcessorPil (float32 batches, normalised on the
host), for `pad` behind LLaVA's padding to a square. Their pixels are compared first: equal for the exact geometries.
The images are VQA-RAD's ($BIOMEDGPT_DATA/vqa_rad/images), else made up at the same sizes.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from timing import compare, machine
from transformers import CLIPImageProcessorPil

from biomedgpt_jax.data.batch_iterator import Reading
from biomedgpt_jax.data.batches import RowShape
from biomedgpt_jax.data.encoded import EncodedSplit, encode_split
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.layouts import llava_files, own_dataset
from biomedgpt_jax.data.mixture import Part
from biomedgpt_jax.data.pipeline import TrainData, build_train_data
from biomedgpt_jax.data.prepare import prepare_dataset
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tokenizers import train_sentencepiece

IMAGES, BATCH, TOKENS = 24, 8, 128
BACKGROUND = (122, 116, 104)  # CLIP's mean colour
READING = Reading(workers=0, threads=1, ahead=2, image_cache_bytes=0)


def main() -> None:
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    columns = ("pixels", "geometry", "ours, images/s", "torch, images/s", "ratio", "mean difference, of 255")
    table = Table(*columns, title=f"One core; {machine()}")
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(Path(scratch))
        split = _encoded(files, Path(scratch))
        for size in (336, 1008):
            for geometry in (Geometry.PAD, Geometry.PAD_FAST, Geometry.CROP, Geometry.CROP_FAST):
                data = _train_data(split, size)
                loader = _torch_loader(files, size, geometry)
                difference = _mean_difference(_our_batches(data, size, geometry), loader, len(files))
                assert difference == 0 or geometry is not geometry.exact, "the pixels are not equal"
                result = compare(
                    lambda data=data, size=size, geometry=geometry: _use(_our_batches(data, size, geometry)),
                    lambda loader=loader: _use(loader),
                    rounds=5,
                )
                speeds = (f"{len(files) / seconds:.1f}" for seconds in (result.ours, result.theirs))
                table.add_row(str(size), geometry.value, *speeds, result.spread, f"{difference:.2f}")
    Console().print(table)


def _files(scratch: Path) -> list[Path]:
    folder = Path(os.environ.get("BIOMEDGPT_DATA", "")) / "vqa_rad" / "images"
    if "BIOMEDGPT_DATA" in os.environ and folder.is_dir():
        every = sorted(folder.glob("*.jpg"))
        return every[:: len(every) // IMAGES][:IMAGES]
    rng, made = np.random.default_rng(0), scratch / "made"
    made.mkdir()
    for number in range(IMAGES):
        small = rng.integers(0, 255, (24, 26, 3), np.uint8)
        Image.fromarray(small).resize((715, 768), Image.Resampling.BICUBIC).save(made / f"{number}.jpg", quality=90)
    return sorted(made.iterdir())


def _encoded(files: list[Path], scratch: Path) -> EncodedSplit:
    """The files as a prepared and encoded split, made by the same functions as `prepare` and `train`."""
    talk = [{"from": "human", "value": "What is shown?"}, {"from": "gpt", "value": "An organ."}]
    rows = [{"id": file.stem, "image": file.name, "conversations": talk} for file in files]
    (scratch / "raw").mkdir()
    (scratch / "raw" / "images").symlink_to(files[0].parent)
    (scratch / "raw" / "rows.json").write_text(json.dumps(rows))
    spec = own_dataset("benchmark", llava_files({"train": "rows.json"}, "images"), licence="", source="")
    prepare_dataset(spec, scratch / "data", source_dir=scratch / "raw")
    tokenizer = train_sentencepiece(["What is shown?", "An organ."], scratch / "words.model", 290)
    return encode_split(PreparedSplit(scratch / "data", "train"), TEMPLATES["llama3"], tokenizer, scratch / "encoded")


def _train_data(split: EncodedSplit, size: int) -> TrainData:
    shape = RowShape(TOKENS, 1, 4, (size, size), image_token_id=0)
    return build_train_data([Part(split, 1.0)], shape, BATCH, num_epochs=1, seed=0, pack=False)


def _our_batches(data: TrainData, size: int, geometry: Geometry):
    """Images uint8 [b 1 h w 3] and sample numbers [b 1]; rows that fill up the last batch have the number -1."""
    iterator = data.batches(_Square(size, geometry), READING)
    for batch in iterator:
        yield batch["images"], batch["samples"]
    iterator.close()


class _Square:
    def __init__(self, size: int, geometry: Geometry):
        self.size, self.geometry = size, geometry

    def __call__(self, data: bytes) -> np.ndarray:
        return load_square(data, self.size, self.geometry, BACKGROUND)


class _Files(torch.utils.data.Dataset):
    """What a LLaVA training script does for each image."""

    def __init__(self, files: list[Path], processor: Callable, pad: bool):
        self.files, self.processor, self.pad = files, processor, pad

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.files[index]).convert("RGB")
        if self.pad and image.width != image.height:
            long = max(image.size)
            square = Image.new("RGB", (long, long), BACKGROUND)
            square.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
            image = square
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


def _torch_loader(files: list[Path], size: int, geometry: Geometry) -> torch.utils.data.DataLoader:
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return torch.utils.data.DataLoader(_Files(files, processor, geometry.exact is Geometry.PAD), batch_size=BATCH)


def _mean_difference(ours, theirs, count: int) -> float:
    """Over all pixels, in grey levels; theirs are brought back from the normalised floats."""
    mean, std = (np.array(x) for x in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    mine = {}
    for images, numbers in ours:
        mine |= {int(number[0]): image[0] for image, number in zip(images, numbers, strict=True)}
    total, number = 0.0, 0
    for batch in theirs:
        for image in np.rint((batch.permute(0, 2, 3, 1).numpy() * std + mean) * 255):
            total += float(np.abs(mine[number] - image).mean())
            number += 1
    assert number == count
    return total / count


def _use(batches) -> int:
    """Goes through all batches, as a training step would."""
    return sum(1 for _ in batches)


if __name__ == "__main__":
    main()
