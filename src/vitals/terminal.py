"""What is said in the terminal of somebody's training, which must not end by it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.text import Text


class _Harmless:
    """Standard output, to which anything may be said: signs that its encoding lacks become question marks, as
    of a file on Windows, and what is said after it was closed, or when nobody reads on, is lost."""

    def __init__(self, out: Any) -> None:
        self.out = out
        self.encoding: str = getattr(out, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with suppress(Exception):
            self.out.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(Exception):
            self.out.flush()

    def isatty(self) -> bool:
        try:
            return bool(self.out.isatty())
        except Exception:
            return False

    def fileno(self) -> int:
        number: int = self.out.fileno()
        return number


def terminal() -> Console:
    """The terminal as it is now: what puts another in its place later, as `silently` does, leaves it."""
    return Console(file=_Harmless(sys.stdout))  # type: ignore[arg-type]


@contextmanager
def status_line(text: str, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Show `text`, with something that moves, inside the block; call what it gives with another text.

    On a terminal alone: files, pipes and notebooks, which keep what is printed, get nothing.
    """
    console = console or terminal()
    if not console.is_interactive or console.is_jupyter or not console.file.isatty():
        yield lambda text: None
        return
    with console.status(Text(text)) as status:  # a text, for brackets in names are no markup
        yield lambda text: status.update(Text(text))
