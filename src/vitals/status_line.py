"""A line at the bottom of the terminal that says what is being done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


@contextmanager
def status_line(text: str, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show `text`, with something that moves, inside the block; call what it gives with another text.

    On a terminal alone: files, pipes and notebooks, which keep what is printed, get nothing.
    """
    console = console or Console()
    if not console.is_interactive or console.is_jupyter or not console.file.isatty():
        yield lambda text: None
        return
    with console.status(Text(text)) as status:  # a text, for brackets in names are no markup
        yield lambda text: status.update(Text(text))
