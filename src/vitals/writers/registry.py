"""Which writer is for which of the trainer's loggers."""

from collections.abc import Callable
from functools import singledispatch, wraps
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from vitals.either_package import either
from vitals.errors import one_line
from vitals.files import cannot_write
from vitals.findings import Finding
from vitals.writers.trackers import CSVWriter, MLFlowWriter, TensorBoardWriter, TrackioWriter, WandbWriter
from vitals.writers.trackio import TrackioLogger
from vitals.writers.writer import Writer


@singledispatch
def writer_of(logger: Logger) -> Writer:
    """The writer for `logger`, by its class: of a class that nobody has registered, one of numbers alone.

    `writer_of.register(MyLogger, MyWriter)` registers another.
    """
    registered = writer_of.registry.items()  # such as of the other package's class of the same name
    known = (make for kind, make in registered if kind is not object and isinstance(logger, either(kind)))
    return next(known, Writer)(logger)


writer_of.register(CSVLogger, CSVWriter)
writer_of.register(TensorBoardLogger, TensorBoardWriter)
writer_of.register(WandbLogger, WandbWriter)
writer_of.register(TrackioLogger, TrackioWriter)
writer_of.register(MLFlowLogger, MLFlowWriter)


WRITES = ("scalars", "image", "figure", "histogram", "text", "table", "alert", "charts")
"""What a writer is asked to do."""
REFUSED = "_vitals_refused"
"""The attribute of the trainer, which its callbacks share, that holds what its loggers would not take."""


def writers(trainer: L.Trainer) -> list[Writer]:
    """One for each logger of `trainer`. Where a logger fails at something, as one that takes no names but its
    own, or whose server is out of reach, it is not asked for that again, and nothing ends by it; but a full
    disk does."""
    refused: dict[tuple[int, str], Finding] = vars(trainer).setdefault(REFUSED, {})
    found = [writer_of(logger) for logger in trainer.loggers]
    for writer in found:
        for name in WRITES:
            if name not in vars(writer):
                setattr(writer, name, _harmless(getattr(writer, name), writer.logger, refused))
    return found


def refusals(trainer: L.Trainer) -> list[Finding]:
    """What the loggers of `trainer` would not take, each with the reason."""
    return list(vars(trainer).get(REFUSED, {}).values())


def _harmless(
    write: Callable[..., None], logger: Any, refused: dict[tuple[int, str], Finding]
) -> Callable[..., None]:
    what = id(logger), write.__name__

    @wraps(write)
    def harmless(*arguments: Any, **options: Any) -> None:
        if what in refused:
            return
        try:
            write(*arguments, **options)
        except Exception as error:
            if cannot_write(error):
                raise
            why = f"{type(error).__name__}: {one_line(error)}"
            message = f"{type(logger).__name__} is given no more {write.__name__}, as it failed ({why})."
            refused[what] = Finding("skipped", "note", message, where=type(logger).__name__)

    return harmless
