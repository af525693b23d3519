"""The error of the data layer."""

from collections.abc import Sequence


class DataError(Exception):
    """Bad input data. The message names what, where, what was expected and found, and what to do (exit
    code 1).
    """


class UnusableSamples(DataError):
    """Samples that stop a training. `found` are (name, reason) of all of them; the message shows the first."""

    def __init__(self, message: str, found: Sequence[tuple[str, str]]):
        super().__init__(message)
        self.found = tuple(found)
