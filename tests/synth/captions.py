"""A small prepared set of captions, one with sentences that mention the image, one that says too little."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from biomedgpt_jax.data.layouts import llava_files, own_dataset
from biomedgpt_jax.data.prepare import prepare_dataset

CAPTIONS = (
    "Chest radiograph with a large right pleural effusion and shift of the mediastinum to the left in an adult.",
    "Axial CT of the abdomen with a 3 cm hypodense mass in the head of the pancreas and a dilated bile duct.",
    "Photomicrograph of liver tissue with steatosis of hepatocytes, hematoxylin and eosin stain, high power view.",
    "Sagittal T2-weighted MRI of the lumbar spine with disc protrusion at L4/L5 that compresses the left nerve root.",
    "Ultrasound of the right kidney with hydronephrosis and a stone of 8 mm in the proximal ureter of the patient.",
    "Endoscopic image of the stomach with an ulcer of the antrum that is covered by fibrin and shows no bleeding.",
)
MENTION = "The effusion occupied more than half of the hemithorax."


def prepare_captions(folder: Path, rows: int = len(CAPTIONS)) -> Path:
    """A prepared folder with a row per caption."""
    raw, out = folder / "raw", folder / "captions"
    (raw / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number, caption in enumerate(CAPTIONS[:rows]):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(raw / "images" / f"{number}.png")
        turns = [{"from": "human", "value": "What does the image describe?"}, {"from": "gpt", "value": caption}]
        told = {"mentions": [MENTION]} if number == 0 else {}
        facts = {"task": "caption", "case": f"case-{number}", **told}
        lines.append(json.dumps({"id": f"r{number}", "image": f"{number}.png", "conversations": turns, **facts}))
    (raw / "train.jsonl").write_text("\n".join(lines))
    prepare_dataset(own_dataset("captions", llava_files({"train": "train.jsonl"}, "images")), out, source_dir=raw)
    return out
