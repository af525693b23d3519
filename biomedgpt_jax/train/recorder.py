"""What happened since the last look: metrics stay on the device until they are read together."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import jax
import numpy as np
from etils import epath

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.train.gradients import GradientCheck
from biomedgpt_jax.train.metrics import Row, Writer
from biomedgpt_jax.train.step import Metrics

_IN_FLIGHT = 2  # steps that the host may run ahead; more would pile batches up on the device


@dataclass(frozen=True)
class Costs:
    """What the model-flops utilisation is computed from."""

    flops: Mapping[str, float]  # of each that a metric counts, such as "tokens"
    peak_flops: float | None  # of one device, per second; None: no utilisation


class Recorder:
    """Collects the steps' metrics and sample numbers; `flush` reads, checks and writes them.

    Args:
        writers: each gets all rows of a flush.
        costs: for MFU.
        gradient_check: sees every row.
        sample_name: sample number -> id, for the file that a bad batch leaves.
        folder: where that file goes.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        *,
        costs: Costs,
        gradient_check: GradientCheck,
        sample_name: Callable[[int], str],
        folder: epath.PathLike,
    ):
        self._writers, self._costs, self._gradient_check = writers, costs, gradient_check
        self._sample_name, self._folder = sample_name, epath.Path(folder)
        self._pending: list[tuple[int, Metrics, np.ndarray | None]] = []
        self.start_clock()

    def start_clock(self) -> None:
        """Begins an interval; what happened outside (evaluation, saving) is not counted as training."""
        self._since, self._waited = monotonic(), 0.0

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def add(self, step: int, metrics: Metrics, samples: np.ndarray | None) -> None:
        """Takes the unread metrics of `step` and the sample numbers [b m] of its rows."""
        self._pending.append((step, metrics, samples))
        if len(self._pending) > _IN_FLIGHT:
            jax.block_until_ready(self._pending[-1 - _IN_FLIGHT][1]["loss"])

    def flush(self, *, compiled: bool = False) -> None:
        """Reads and writes what is pending.

        Args:
            compiled: the interval was the compilation's, whose time is no training.

        Raises:
            RunError: a loss or gradient is not finite, or a leaf got no gradient.
        """
        if not self._pending:
            return
        fetched = jax.device_get([metrics for _, metrics, _ in self._pending])
        steps = [(step, samples) for step, _, samples in self._pending]
        self._pending = []
        rows: list[dict[str, float]] = []
        for (step, samples), metrics in zip(steps, fetched, strict=True):
            row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                self._write([*rows])
                self._stop(row, samples)
            self._gradient_check.see(row)
            rows.append({name: value for name, value in row.items() if not name.startswith("gradient/")})
        rows[-1] |= self._speed(rows, compiled)
        self._write(rows)
        self.start_clock()

    def write(self, row: Row) -> None:
        """Writes a row that is already on the host, such as an evaluation's."""
        self._write([row])

    def _write(self, rows: Sequence[Row]) -> None:
        for writer in self._writers if rows else ():
            writer(rows)

    def _speed(self, rows: Sequence[Row], compiled: bool) -> dict[str, float]:
        """Figures of the interval."""
        elapsed = monotonic() - self._since
        if compiled:
            return {"first_step_seconds": elapsed}
        tokens, images = (sum(row[name] for row in rows) for name in ("tokens", "images"))
        speed = {
            "step_seconds": elapsed / len(rows),
            "tokens_per_second": tokens / elapsed,
            "images_per_second": images / elapsed,
            "data_wait_share": self._waited / elapsed,
        }
        if self._costs.peak_flops:
            flops = sum(row[name] * each for row in rows for name, each in self._costs.flops.items())
            speed["mfu"] = flops / elapsed / (self._costs.peak_flops * jax.device_count())
        return speed

    def _stop(self, row: Row, samples: np.ndarray | None) -> None:
        file = self._folder / f"bad_batch_step_{int(row['step'])}_process_{jax.process_index()}.json"
        names = [
            [self._sample_name(int(number)) for number in numbers if number >= 0]
            for numbers in ([] if samples is None else samples)
        ]
        bad = sorted(name for name, value in row.items() if not math.isfinite(value))
        report = {"step": row["step"], "not_finite": bad, "samples_of_each_row": names}
        file.write_text(json.dumps(report, indent=1))
        raise RunError(
            f"Step {int(row['step'])}: loss {row['loss']}, gradient norm {row['grad_norm']}; expected finite "
            f"numbers. The update was not applied and the last checkpoint is from before it. The batch's "
            f"samples are in {file}. Look at them, or lower the learning rate, and run the same command again."
        )
