"""A prediction on the screen."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biomedgpt_jax.plan.prediction import KERNEL_EFFICIENCY, Prediction, Speed, Traffic
from biomedgpt_jax.plan.search import Tried
from biomedgpt_jax.train.ledger import readable_bytes

NOTE = (
    "Times are predictions from the compiler's own estimates, not measurements. Assumed: the links' speeds (90% of the "
    f"published ones, all links of a chip in use), Pallas kernels at {KERNEL_EFFICIENCY:.0%} of the peak. Left out: "
    "the host, reading and preparing the data, writing checkpoints, waits between devices, operations without an "
    "estimate. Rows and image slots count as full."
)


def print_prediction(prediction: Prediction, console: Console) -> None:
    say = partial(console.print, markup=False, highlight=False)
    if prediction.bytes is None:
        needed = "" if prediction.needed is None else f" It needs {readable_bytes(prediction.needed)} of each device."
        say(f"Does not fit.{needed}\nThe compiler: {prediction.message}")
        return
    held = prediction.bytes
    table = Table("bytes per device", box=None)
    table.add_column("", justify="right")
    for name in ("parameters", "optimizer", "batch", "temporaries", "peak", "usable"):
        table.add_row(name, readable_bytes(getattr(held, name)))
    if held.host:
        table.add_row("on the host", readable_bytes(held.host))
    console.print(table)
    say(f"{'Fits' if prediction.fits else 'Does not fit'}: {held.peak / held.usable:.0%} of the usable memory.")
    if prediction.traffic:
        console.print(_traffic_table(prediction.traffic))
    if prediction.speed is None:
        say("No prediction of time: the compiler for this chip gives no estimates.")
    else:
        _print_speed(prediction, prediction.speed, console)


def print_search(tried: Sequence[Tried], console: Console) -> None:
    table = Table("mesh", "remat", box=None)
    for name in ("rows/device", "accumulate", "rows/step", "peak", "step s", "tokens/s", "images/s", "MFU"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in tried:
        of, found = each.candidate, each.prediction
        mesh = " ".join(f"{name}={size}" for name, size in asdict(of.mesh).items() if size > 1)
        remat = f"{of.remat}, tower {of.tower_remat}" if of.tower_remat else of.remat
        settings = (mesh or "one device", remat, str(of.device_rows), str(of.accumulate), str(of.rows))
        figures = ("",) * 5 if found is None else _figures(found)
        note = "" if each.fits else escape(each.reason or "does not fit")
        table.add_row(*settings, *figures, note, style=None if each.fits else "dim")
    console.print(table)
    console.print(NOTE, markup=False, highlight=False)


def _figures(found: Prediction) -> tuple[str, ...]:
    peak = "" if found.needed is None else readable_bytes(found.needed)
    if found.speed is None:
        return (peak, "", "", "", "")
    speed = found.speed
    rates = f"{speed.tokens_per_second:,.0f}", f"{speed.images_per_second:,.1f}"
    return (peak, f"{speed.step_seconds:.3g}", *rates, f"{speed.mfu:.1%}")


def _print_speed(prediction: Prediction, speed: Speed, console: Console) -> None:
    console.print(
        f"Model FLOPs per step and device: {prediction.flops:.4g} (forward and backward, vision included, the "
        "decoder's attention in full; recomputation not counted).\n"
        f"Step {speed.step_seconds:.4g} s = compute {speed.compute_seconds:.4g} + kernels {speed.kernel_seconds:.4g} + "
        f"exposed communication {speed.exposed_seconds:.4g} (of {speed.communication_seconds:.4g}).\n"
        f"{speed.tokens_per_second:,.0f} tokens/s, {speed.images_per_second:,.1f} images/s. "
        f"MFU {speed.mfu:.1%} with attention in full, {speed.mfu_causal:.1%} with its causal half.",
        markup=False,
        highlight=False,
    )
    if speed.unpriced:
        named = ", ".join(f"{count:,.0f} {name}" for name, count in sorted(speed.unpriced.items(), key=lambda i: -i[1]))
        console.print(f"Operations without an estimate: {named}.", markup=False, highlight=False)
    console.print(NOTE, markup=False, highlight=False)


def _traffic_table(traffic: tuple[Traffic, ...]) -> Table:
    table = Table("collective", "between", box=None)
    for name in ("devices", "count", "bytes sent per device", "seconds"):
        table.add_column(name, justify="right")
    for each in traffic:
        kind = f"{each.kind}{' (asynchronous)' if each.asynchronous else ''}"
        between = "slices" if each.between_slices else "chips"
        sent = readable_bytes(round(each.bytes))
        table.add_row(kind, between, str(each.devices), f"{each.count:,.0f}", sent, f"{each.seconds:.4g}")
    return table
