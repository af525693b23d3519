"""BatchNorm over pixels, its running statistics as input and output.

Axis letters: b images, h w pixels, c channels.
"""

from enum import Enum


class BatchNorm(Enum):
    """Whose mean and variance normalise while a model learns. As it answers, the running ones always do."""

    LOCAL = "local"  # of the images of each device
    SYNCED = "synced"  # of the whole batch
    FROZEN = "frozen"  # the running ones, which then stay as they are
