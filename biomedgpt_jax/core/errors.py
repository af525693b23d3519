"""Errors whose message is complete: what, where, expected, found, and what to do."""


class RunError(Exception):
    """The work failed for a reason that the user can act on. Exit code 1."""

    exit_code = 1


class UsageError(RunError):
    """The call itself was wrong: a flag, a path, a configuration key. Exit code 2."""

    exit_code = 2


EXIT_RESTART = 75  # EX_TEMPFAIL: the same command goes on where this one stopped; launchers start it again


class LostProcess(RunError):
    """Another process of the run is gone. Exit code 75."""

    exit_code = EXIT_RESTART
