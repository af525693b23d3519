"""The checkpoints of one run: what changes, the data iterator, and a record, per step.

    <workdir>/base/<hash>/               the frozen parameters, once (base.py)
    <workdir>/checkpoints/<step>/
        trainable/  optimizer/           Orbax arrays, readable onto any mesh
        statistics/  average/            the same, where the state has them
        data/                            where the data iterator stands, as JSON; the same for any number of processes
        record/                          {"config", "base", "leaves"} as JSON

Orbax writes in the background and makes a step visible by its last operation; what a killed process
left unfinished is ignored and removed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from biomedgpt_jax.checkpoint.base import load_base
from biomedgpt_jax.checkpoint.fingerprint import path_leaves
from biomedgpt_jax.checkpoint.weights import check_leaves
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.system_errors import system_message
from biomedgpt_jax.core.types import TrainState

_ITEMS = ("trainable", "optimizer", "statistics", "average", "data", "record")


class RunCheckpoints:
    """Saves and restores the steps of the run in `workdir`; a context manager that waits for writing.

    Args:
        workdir: local or remote folder; made when absent.
        keep: how many of the newest steps stay on disk; None keeps all.
        read_only: for a look into another run, which may be writing.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int | None, read_only: bool = False):
        self.workdir = epath.Path(workdir).resolve()
        self._manager = ocp.CheckpointManager(
            self.workdir / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=not read_only, read_only=read_only
            ),
            item_names=_ITEMS,
        )

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self.refusals():
                self._manager.close()
        except Exception:
            # What stopped the run is told, not what that did to the writing.
            if kind is None:
                raise

    def latest(self) -> int | None:
        """The newest finished step, None in a new run."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All finished steps, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, data: Any, *, config: Mapping[str, Any], base: str) -> None:
        """Starts writing step `step`; returns when the state may be donated. An existing step is left as is.

        `data` is the Grain iterator, which must stand right behind the last batch that was trained on.

        Raises:
            RunError: the system refused to write, here or since the last call (a full disk); names the last whole step.
        """
        if step in self._manager.all_steps():
            return
        leaves = {path: list(leaf.shape) for path, leaf in path_leaves(_changing(state)).items()}
        with self.refusals():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{name: ocp.args.PyTreeSave(tree) for name, tree in _changing(state).items()},
                    data=ocp.args.JsonSave(data.get_state()),
                    record=ocp.args.JsonSave({"config": dict(config), "base": base, "leaves": leaves}),
                ),
            )

    def wait(self) -> None:
        """Blocks until everything that `save` began is on disk. RunError as of `save`."""
        with self.refusals():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises RunError where the writing in the background has failed; never waits."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turns what the system refuses inside (a full disk) into a RunError that names the last whole step."""
        try:
            yield
        except Exception as error:
            refused = system_message(error, str(self.workdir))
            if refused is None or isinstance(error, RunError):
                raise
            # The manager counts a failed step among its own; the disk does not.
            whole = [int(each.name) for each in (self.workdir / "checkpoints").iterdir() if each.name.isdigit()]
            last = f"step {max(whole)} is the last whole one" if whole else "there is no whole one yet"
            raise RunError(f"{refused} Checkpoints: {last}; the run goes on from there.") from error

    def record(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays of `step`: config, hash of the base, shapes by path.

        Raises:
            RunError: it is missing or damaged.
        """
        with damaged(self._folder(step) / "record"):
            record = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
            if not isinstance(record, dict) or not {"config", "base", "leaves"} <= record.keys():
                raise ValueError("expected the keys config, base and leaves")
        return record

    def restore(self, step: int, abstract: TrainState, data: Any) -> tuple[TrainState, str]:
        """Returns the state of `step` laid out as `abstract` says and the base's hash; sets `data` back.

        Raises:
            RunError: the checkpoint is of another model or tuning, or its data iterator does not fit.
        """
        record = self.record(step)
        folder, expected = self._folder(step), path_leaves(_changing(abstract))
        check_leaves(folder, expected, {path: tuple(shape) for path, shape in record["leaves"].items()})
        extra = sorted(record["leaves"].keys() - expected.keys())
        if extra:
            raise RunError(
                f"{folder}: {len(extra)} keys are not expected, first {', '.join(extra[:5])}. "
                "The run trained more than the settings say; resume with those that it began with."
            )
        with damaged(folder):
            arrays = self._manager.restore(
                step,
                args=ocp.args.Composite(**{name: _placed_restore(tree) for name, tree in _changing(abstract).items()}),
            )
        self._restore_data(step, data)
        return TrainState(
            step=jax.device_put(jnp.int32(step), abstract.step.sharding),
            trainable=arrays["trainable"],
            frozen=load_base(self.workdir, record["base"], abstract.frozen),
            opt_state=arrays["optimizer"],
            statistics=arrays.get("statistics") or {},
            average=arrays.get("average") or {},
        ), record["base"]

    def _folder(self, step: int) -> epath.Path:
        return self.workdir / "checkpoints" / str(step)

    def _restore_data(self, step: int, data: Any) -> None:
        folder = self._folder(step) / "data"
        with damaged(folder):
            place = self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]
        try:
            data.set_state(place)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{folder}: the saved position in the data does not fit the present pipeline ({error}). Data and batch "
                "size must be those of the run; otherwise start a new one from these weights in another workdir."
            ) from error


@contextmanager
def damaged(folder: epath.Path) -> Iterator[None]:
    """What fails while a part of a written step is read becomes one RunError."""
    try:
        yield
    except (RunError, jax.errors.JaxRuntimeError):  # told already; no memory on the device
        raise
    # Orbax and its stores raise nearly every kind of exception on damaged files, with messages of pages.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise RunError(
            f"{folder}: cannot be read ({type(error).__name__}: {reason}). The checkpoint is damaged: take an earlier "
            "step, or copy it again from where it was made."
        ) from error


def _changing(state: TrainState) -> dict[str, Any]:
    """What a step changes, by the name of its folder."""
    extra = {"statistics": state.statistics, "average": state.average}
    return {
        "trainable": state.trainable,
        "optimizer": state.opt_state,
        **{k: tree for k, tree in extra.items() if tree},
    }


def _placed_restore(abstract: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract))
