"""The figures of a finished run of run.sh, as the tables of README.md: python figures.py --out=runs/vqa_rad_small"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

ALWAYS_NO = 133 / 272  # of the closed questions of the official test split
GROUPS = {("vqa", "closed"): "closed", ("vqa", "open"): "open", ("organ", "closed"): "body part"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    for section in (scores, training, agreement, speed):
        print("\n".join(section(out)), end="\n\n")


def scores(out: Path) -> list[str]:
    """A row for each split, protocol and kind of question."""
    lines = ["| split | protocol | questions | n | score | 95% interval | most frequent training answer |"]
    lines.append("|" + "---|" * 7)
    for file in sorted(out.glob("eval/*/scores.json"), reverse=True):
        summary, split = _json(file), file.parent.name.split(".")[0]
        for group in summary["groups"]:
            name, headline = GROUPS[group["task"], group["answer_type"]], group["headline"]
            found, baseline = group["scores"][headline], group["baseline"]
            usual = "" if baseline is None else f"{baseline['scores'][headline]:.1%} ({baseline['answer']})"
            interval = f"{found['low']:.1%} to {found['high']:.1%}"
            score = f"{headline} {found['mean']:.1%}"
            lines.append(
                f"| {split} | {summary['protocol']} | {name} | {group['n']} | {score} | {interval} | {usual} |"
            )
    official = out / "eval/official.strict/scores.json"
    if official.is_file():
        (closed,) = (g for g in _json(official)["groups"] if (g["task"], g["answer_type"]) == ("vqa", "closed"))
        low = closed["scores"]["accuracy"]["low"]
        verdict = "above" if low > ALWAYS_NO else "NOT above"
        lines += ["", f"Official, closed: the interval begins at {low:.1%}, {verdict} 'always no' ({ALWAYS_NO:.1%})."]
    return lines


def training(out: Path) -> list[str]:
    lines = ["| run | steps | first loss | last loss (mean of 20) | minutes of steps |", "|" + "---|" * 5]
    for folder in sorted(out.glob("runs/*.stage[12]")):
        rows = _losses(folder)
        last = [row["loss"] for row in rows[-20:]]
        minutes = _step_seconds(rows) * len(rows) / 60
        lines.append(
            f"| {folder.name} | {len(rows)} | {rows[0]['loss']:.3f} | {sum(last) / len(last):.3f} | {minutes:.1f} |"
        )
    return lines


def agreement(out: Path) -> list[str]:
    lines = []
    for file in sorted(out.glob("transformers.*.json")):
        found = _json(file)
        same = f"{found['equal_answers']} of {found['questions']} answers equal"
        lines.append(
            f"transformers, {file.stem.split('.')[1]}: {same}; scores {found['biomedgpt']} and {found['transformers']}"
        )
    for file in sorted(out.glob("exports/*/parity.json")):
        found = _json(file)["transformers"]
        greedy = f"greedy answers equal: {found['greedy_equal']}"
        lines.append(f"certificate, {file.parent.name}: logits differ by at most {found['max_abs']:.2g}, {greedy}")
    curves = out / "loss_curves.json"
    if curves.is_file():
        found = _json(curves)
        lines.append(f"PyTorch: losses of {found['steps']} steps differ by at most {found['largest_difference']:.2g}")
    return lines


def speed(out: Path) -> list[str]:
    seconds = {folder.name: _step_seconds(_losses(folder)) for folder in out.glob("speed/*")}
    if len(seconds) < 2:
        return []
    ratio = seconds["online"] / seconds["cached"]
    return [f"stage 1, seconds a step: online {seconds['online']:.2f}, cached {seconds['cached']:.2f}: {ratio:.1f}x"]


def _step_seconds(rows: list[dict[str, Any]]) -> float:
    """The median of what was logged; a row has it where a few steps were logged together."""
    return median(row["step_seconds"] for row in rows if "step_seconds" in row)


def _losses(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
