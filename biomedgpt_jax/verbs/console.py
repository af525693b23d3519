"""Where verbs print."""

from rich.console import Console

from biomedgpt_jax.core.processes import is_leader

LOG_WIDTH = 120  # of lines that go to a file or a pipe, where rich would take 80


def make_console() -> Console:
    """Of several processes one is heard."""
    console = Console(quiet=not is_leader())
    return console if console.is_terminal else Console(width=LOG_WIDTH, quiet=console.quiet)
