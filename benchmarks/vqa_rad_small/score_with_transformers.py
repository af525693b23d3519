"""Asks an exported folder, loaded by transformers alone, what `biomedgpt eval` asked the run; compares the answers.

    python benchmarks/vqa_rad_small/score_with_transformers.py --export=exports/official --raw=raw/vqa_rad \
        --predictions=eval/official/predictions.jsonl --out=transformers.json

Pictures come from the raw files, questions from the predictions. Model, tokenizer, chat template and image processor
are those of the folder. The answers are scored by the protocol of the evaluation. Exit code 1 when a score differs.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

from biomedgpt_jax.eval.protocols import protocol

QUESTIONS, IMAGES = "VQA_RAD Dataset Public.json", ("images", "VQA_RAD Image Folder")
NEW_TOKENS = 32  # as configs/eval.py


class Asker:
    """An exported folder that answers one question at a time, greedily."""

    def __init__(self, folder: Path):
        self.model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        settings = json.loads((folder / "generation_config.json").read_text())
        self.stop, self.pad = settings["eos_token_id"], settings["pad_token_id"]

    def __call__(self, image: Path, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        picture = Image.open(image).convert("RGB")
        inputs = self.processor(images=[picture], text=text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=self.stop,
                pad_token_id=self.pad,
            )
        return self.processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


def main() -> int:
    arguments = _arguments()
    rows = [json.loads(line) for line in arguments.predictions.read_text().splitlines()]
    rows = rows[:: max(1, len(rows) // arguments.count)][: arguments.count] if arguments.count else rows
    scores = json.loads((arguments.predictions.parent / "scores.json").read_text())
    images, ask, begun = _image_files(arguments.raw), Asker(arguments.export), time.perf_counter()
    answers = []
    for number, row in enumerate(rows, start=1):
        answers.append(ask(images[row["id"]], row["question"]))
        if number % 50 == 0:
            print(f"{number} of {len(rows)}", flush=True)
    different = [
        {"id": row["id"], "biomedgpt": row["prediction"], "transformers": answer}
        for row, answer in zip(rows, answers, strict=True)
        if row["prediction"] != answer
    ]
    ours = group_means(zip(rows, (row["prediction"] for row in rows), strict=True), scores["protocol"])
    theirs = group_means(zip(rows, answers, strict=True), scores["protocol"])
    result = {
        "questions": len(rows),
        "equal_answers": len(rows) - len(different),
        "different": different,
        "protocol": scores["protocol"],
        "biomedgpt": ours,
        "transformers": theirs,
        "seconds": time.perf_counter() - begun,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['equal_answers']} of {len(rows)} answers are equal; scores {ours} and {theirs}")
    return 0 if ours == theirs else 1


def group_means(answered: Iterable[tuple[dict[str, Any], str]], name: str) -> dict[str, float]:
    """The headline score of each group of questions, such as "vqa closed"."""
    chosen, groups = protocol(name), {}
    for row, answer in answered:
        meta = {"answer_type": row["answer_type"], "question": row["question"], "choices": row.get("choices", ())}
        score = chosen.score(answer, row["truth"], meta)[chosen.headline[row["answer_type"]]]
        groups.setdefault(f"{row['task']} {row['answer_type']}", []).append(score)
    return {group: sum(scores) / len(scores) for group, scores in sorted(groups.items())}


def _image_files(raw: Path) -> dict[str, Path]:
    """Picture of each question, by the ids that our preparation gives."""
    folder = next(raw / name for name in IMAGES if (raw / name).is_dir())
    entries = json.loads((raw / QUESTIONS).read_text())
    asked = {f"vqa_rad-{entry['qid']}": folder / entry["image_name"] for entry in entries}
    return asked | {f"vqa_rad-organ-{file.stem}": file for file in set(asked.values())}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("export", "raw", "predictions", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--count", type=int, default=0, help="of evenly spaced questions; 0: all")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
