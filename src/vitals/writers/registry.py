"""Which writer is for which of the trainer's loggers."""

from functools import singledispatch

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from vitals.either_package import either
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


def writers(trainer: L.Trainer) -> list[Writer]:
    """One for each logger of `trainer`."""
    return [writer_of(logger) for logger in trainer.loggers]
