"""The ledger of a run: what is trained, at which rate, in which precision, and where it lies."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.sharding import PartitionSpec
from rich.console import Console
from rich.table import Table

from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.types import TrainState
from biomedgpt_jax.train.optim import Optimizer

Padding = Callable[[str], int]


@dataclass(frozen=True)
class LedgerRow:
    """The parameters of one module that share a data type, a group and a layout of their largest array."""

    module: str
    parameters: int
    dtype: str
    trainable: bool
    learning_rate: float  # peak; 0 when frozen
    sharding: str  # mesh axes by dimension of the module's largest array
    bytes_per_device: int


@dataclass(frozen=True)
class Ledger:
    rows: tuple[LedgerRow, ...]
    parameters: int  # without padding and statistics
    trainable_parameters: int
    padding: int  # numbers in rows and columns that only fill a layout
    statistics: int  # running ones, which are no parameters
    parameter_bytes_per_device: int
    optimizer_bytes_per_device: int


def make_ledger(abstract: TrainState, optimizer: Optimizer, is_padded: Padding | None = None) -> Ledger:
    """Builds the ledger from shapes alone, before anything is allocated.

    Args:
        is_padded: path of a parameter -> how many of its numbers are padding; None: none anywhere.
    """
    trainable, frozen = leaf_paths(abstract.trainable), leaf_paths(abstract.frozen)
    padding = {path: is_padded(path) for path in (*trainable, *frozen)} if is_padded else {}
    rows = [*_rows(trainable, optimizer), *_rows(frozen, None)]
    rows.sort(key=lambda row: (row.module, not row.trainable))
    return Ledger(
        rows=tuple(rows),
        parameters=sum(row.parameters for row in rows) - sum(padding.values()),
        trainable_parameters=sum(row.parameters for row in rows if row.trainable)
        - sum(number for path, number in padding.items() if path in trainable),
        padding=sum(padding.values()),
        statistics=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract.statistics)),
        parameter_bytes_per_device=sum(row.bytes_per_device for row in rows)
        + sum(map(_bytes_per_device, jax.tree.leaves((abstract.statistics, abstract.average)))),
        optimizer_bytes_per_device=sum(map(_bytes_per_device, jax.tree.leaves(abstract.opt_state))),
    )


def ledger_json(ledger: Ledger) -> dict[str, Any]:
    """The ledger as plain JSON values."""
    return asdict(ledger)


def print_ledger(ledger: Ledger, console: Console) -> None:
    table = Table("module", "dtype", "trainable", "sharding")
    for name in ("parameters", "learning rate", "bytes/device"):
        table.add_column(name, justify="right")
    for row in ledger.rows:
        table.add_row(
            row.module,
            row.dtype,
            "yes" if row.trainable else "frozen",
            row.sharding,
            f"{row.parameters:,}",
            f"{row.learning_rate:g}" if row.trainable else "",
            readable_bytes(row.bytes_per_device),
        )
    console.print(table)
    share = ledger.trainable_parameters / max(1, ledger.parameters)
    if ledger.padding or ledger.statistics:
        console.print(f"Not counted: {ledger.padding:,} of padding, {ledger.statistics:,} running statistics.")
    console.print(
        f"{ledger.parameters:,} parameters, {ledger.trainable_parameters:,} trainable ({share:.2%}); per device "
        f"{readable_bytes(ledger.parameter_bytes_per_device)} of parameters and "
        f"{readable_bytes(ledger.optimizer_bytes_per_device)} of optimizer state."
    )


def readable_bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def _rows(leaves: dict[str, Any], optimizer: Optimizer | None) -> Sequence[LedgerRow]:
    modules: dict[tuple[str, str, float], list[Any]] = {}
    for path, leaf in leaves.items():
        rate = optimizer.peaks[optimizer.group_of[path]] if optimizer else 0.0
        modules.setdefault((path.rpartition("/")[0], str(leaf.dtype), rate), []).append(leaf)
    return [
        LedgerRow(
            module=module,
            parameters=sum(math.prod(leaf.shape) for leaf in members),
            dtype=dtype,
            trainable=optimizer is not None,
            learning_rate=rate,
            sharding=_sharding_text(max(members, key=lambda leaf: math.prod(leaf.shape)).sharding.spec),
            bytes_per_device=sum(map(_bytes_per_device, members)),
        )
        for (module, dtype, rate), members in modules.items()
    ]


def _bytes_per_device(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _sharding_text(spec: PartitionSpec) -> str:
    """`-, fsdp, tensor` reads: the first dimension is whole, the second split over fsdp, and so on."""
    names = [(axis,) if isinstance(axis, str) else axis or () for axis in spec]
    return ", ".join("+".join(group) or "-" for group in names) or "-"
