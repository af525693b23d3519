"""The assertion that every trainable leaf is reached by a gradient, made on the first steps."""

from collections.abc import Callable, Mapping

from biomedgpt_jax.core.errors import RunError

# The first update of a warm-up has rate 0 and the second moves what multiplies a late leaf, so by the
# third step a leaf that began behind a zero (lora_a behind lora_b = 0) has a gradient too.
LATE_STEP = 3


class GradientCheck:
    """Looks at the rows of the first steps; does nothing in a run resumed after them.

    Args:
        is_late: paths that knowingly get no gradient at step 1 because they begin behind a zero.
        is_unused: paths that the task's data may never reach.
        expects_images: whether the model takes images; a batch without any proves nothing.
    """

    def __init__(self, *, is_late: Callable[[str], bool], is_unused: Callable[[str], bool], expects_images: bool):
        self._is_late, self._is_unused = is_late, is_unused
        self._expects_images = expects_images
        self._unreached: set[str] | None = None
        self._first_done = False

    def see(self, row: Mapping[str, float | int]) -> None:
        """Takes the metrics of one step, those named `gradient/<path>` among them.

        Raises:
            RunError: a trainable leaf got no gradient though it should have.
        """
        norms = {name.removeprefix("gradient/"): value for name, value in row.items() if "gradient/" in name}
        if row["step"] == 1:
            self._unreached = {path for path in norms if not self._is_unused(path)}
        if self._unreached is None:
            return
        self._unreached -= {path for path, norm in norms.items() if norm > 0}
        if self._expects_images and row["images"] == 0:
            return
        if not self._first_done:
            self._first_done = True
            _refuse({path for path in self._unreached if not self._is_late(path)}, row["step"], len(norms))
        if row["step"] >= LATE_STEP:
            _refuse(self._unreached, row["step"], len(norms))
            self._unreached = None


def _refuse(unreached: set[str], step: float | int, count: int) -> None:
    if unreached:
        raise RunError(
            f"After step {int(step)}, {len(unreached)} of {count} trainable arrays have got no gradient: "
            f"{', '.join(sorted(unreached)[:8])}. They would never be trained: freeze them, or mend what "
            "keeps the loss from depending on them."
        )
