"""Where verbs print."""

from rich.console import Console

LOG_WIDTH = 120  # of lines that go to a file or a pipe, where rich would take 80


def make_console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)
