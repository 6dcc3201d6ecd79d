"""What SIGINT, SIGTERM and SIGUSR1 do to a command.

The first SIGINT (Ctrl-C) or SIGTERM ends it cleanly at the next safe place, a second one at once. SIGUSR1
makes a training save its state and go on; in a job of Slurm, which sends it before the job's time is over, it
ends it, too.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

ENDING = ("SIGINT", "SIGTERM")
SAVING = ("SIGUSR1", "SIGUSR2")
"""Which end the program in a job of Slurm; elsewhere only the first is heeded."""


class Interrupted(SystemExit):
    """A signal of this number has asked the program to end: exit code 128 and the number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Signals:
    """Within it, signals are heeded; `current` finds it from anywhere below.

    `Interrupted` is raised where the signal arrives, in the main thread, or while `deferring` by the next
    `check`.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the signal that has asked the program to end first."""
        self.ending = False
        """Whether that was SIGINT or SIGTERM, or one of them has followed."""
        self.deferring = False
        self.save = False
        """Whether the state is to be saved, and the training to go on."""
        self.last_words: Callable[[], object] = lambda: None
        """What must be done before a second signal ends the process."""
        self.again: Callable[[int], object] = self._leave
        """What a second SIGINT or SIGTERM does, by its number: by default it ends the process."""
        self.process = os.getpid()
        self.before: dict[int, Any] = {}

    @classmethod
    def current(cls) -> Self | None:
        """The one whose `with` block this is; None outside of any, or on a system without signals."""
        handlers = (signal.getsignal(number) for number in signal.valid_signals())
        owners = (getattr(handler, "__self__", None) for handler in handlers)
        return next((owner for owner in owners if isinstance(owner, cls)), None)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            names = (*ENDING, *(SAVING if in_slurm() else SAVING[:1]))
            known = [getattr(signal, name) for name in names if hasattr(signal, name)]
            heeded = [number for number in known if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self.before = {number: signal.getsignal(number) for number in heeded}
            self.install()
        return self

    def install(self) -> None:
        """Take the signals over again, where Lightning has put its own handlers in between."""
        for number in self.before:
            if signal.getsignal(number) != self._received:
                signal.signal(number, self._received)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Interrupted` where a signal has asked for it."""
        if self.number is not None:
            raise Interrupted(self.number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it, the first signal waits for the end of the block."""
        before, self.deferring = self.deferring, True
        try:
            yield
        finally:
            self.deferring = before
        if not before:
            self.check()

    def _received(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a process forked from this one, such as a worker that loads data
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        name = signal.Signals(number).name
        if name in SAVING and not in_slurm():
            self.save = True
            return
        if self.ending and name in ENDING:
            self.again(number)
        self.ending = self.ending or name in ENDING
        if self.number is None:
            self.number = number
            if not self.deferring:
                raise Interrupted(number)

    def _leave(self, number: int) -> None:
        with suppress(Exception):
            self.last_words()
        with suppress(Exception):
            if sys.stdout.isatty():
                sys.stdout.write("\x1b[?25h")  # a progress bar may have hidden the cursor
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(128 + number)


def in_slurm() -> bool:
    """Whether this process is part of a job of Slurm."""
    return "SLURM_JOB_ID" in os.environ


def requeue() -> None:
    """Ask Slurm for another turn of this job; nothing where submitit has started it, which asks itself."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        return
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    with suppress(OSError):
        subprocess.run(["scontrol", "requeue", job])
