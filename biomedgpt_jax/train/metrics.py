"""Where metrics go: a JSONL file, TensorBoard, Weights & Biases, the terminal.

A writer is a context manager around `write(rows)`; a row is a dict with `step` and plain numbers. After a
resume none of them shows a step twice: each is told the step that was restored (None in a new run).
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from biomedgpt_jax.core.errors import UsageError

Row = Mapping[str, float | int]
Writer = Callable[[Sequence[Row]], None]

_SHOWN = {
    "loss": "loss {:.4f}",
    "accuracy": "accuracy {:.3f}",
    "grad_norm": "grad {:.3g}",
    "step_seconds": "{:.3g} s/step",
    "tokens_per_second": "{:,.0f} tokens/s",
    "images_per_second": "{:,.1f} images/s",
    "padding_share": "padding {:.0%}",
    "data_wait_share": "data wait {:.0%}",
    "mfu": "MFU {:.1%}",
}


@contextmanager
def jsonl_writer(file: epath.PathLike, *, restored_step: int | None) -> Iterator[Writer]:
    """Appends a line per row; lines beyond the restored step and a torn last line are cut off first."""
    file = epath.Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = [] if restored_step is None else [line for line in _lines(file) if _step_of(line) <= restored_step]
    draft = file.parent / f".{file.name}.partial"
    draft.write_text("".join(kept))
    draft.replace(file)

    def write(rows: Sequence[Row]) -> None:
        text = "".join(json.dumps(dict(row)) + "\n" for row in rows)
        if "://" in os.fspath(file):  # object stores do not append
            file.write_text(file.read_text() + text)
            return
        with open(file, "a") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    yield write


@contextmanager
def tensorboard_writer(folder: epath.PathLike, *, restored_step: int | None) -> Iterator[Writer]:
    """Event files for TensorBoard; what an interrupted run wrote beyond the restored step is purged."""
    from tensorboardX import SummaryWriter

    purge_step = 0 if restored_step is None else restored_step + 1
    # The suffix keeps two starts within a second from sharing a file.
    with SummaryWriter(os.fspath(folder), purge_step=purge_step, filename_suffix=f".{purge_step}") as events:

        def write(rows: Sequence[Row]) -> None:
            for row in rows:
                for name, value in row.items():
                    if name != "step":
                        events.add_scalar(name, value, int(row["step"]))
            events.flush()

        yield write


@contextmanager
def wandb_writer(project: str, run_id: str, *, config: Mapping[str, Any]) -> Iterator[Writer]:
    """Weights & Biases; the same `run_id` continues the same curve.

    Raises:
        UsageError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise UsageError("wandb was asked for but is not installed: pip install 'biomedgpt-jax[wandb]'.") from error
    run = wandb.init(project=project, id=run_id, resume="allow", config=dict(config))

    def write(rows: Sequence[Row]) -> None:
        for row in rows:
            run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

    try:
        yield write
    finally:
        run.finish()


@contextmanager
def terminal_writer(*, total_steps: int, restored_step: int | None, console: Console) -> Iterator[Writer]:
    """A progress bar with the time left on a terminal, otherwise one plain line per call."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    begun, first = monotonic(), restored_step or 0
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=False) as progress:
        task = progress.add_task("training", total=total_steps, completed=first, figures="")

        def write(rows: Sequence[Row]) -> None:
            row = rows[-1]
            step = int(row["step"])
            figures = "  ".join(text.format(row[name]) for name, text in _SHOWN.items() if name in row)
            progress.update(task, completed=step, figures=figures)
            if not console.is_terminal:
                seconds = (monotonic() - begun) / max(1, step - first) * (total_steps - step)
                left = timedelta(seconds=round(seconds))
                extra = "" if figures else _plain(row)
                console.print(f"step {step}/{total_steps}  {figures}{extra}  {left} left", highlight=False)

        yield write


def _plain(row: Row) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")


def _lines(file: epath.Path) -> list[str]:
    return file.read_text().splitlines(keepends=True) if file.exists() else []


def _step_of(line: str) -> float:
    """The step of a JSONL line; of a torn one, a number beyond every step."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
