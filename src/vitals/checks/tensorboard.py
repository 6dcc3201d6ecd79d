"""What the checks before learning write to TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from vitals.checks.check import Row
from vitals.checks.pictures import are_images, input_grid
from vitals.checks.training_setup import TrainingSetup
from vitals.findings import Finding, markdown


def log_checks(
    loggers: Sequence[Logger], rows: Sequence[Row], findings: Sequence[Finding], setup: TrainingSetup
) -> None:
    """Write to every TensorBoard logger what each check has to log, the images `checks/inputs` as the network
    gets them, and the text card `findings`.

    Args:
        loggers: of the trainer.
        rows: of the checks made.
        findings: of all of them.
        setup: that was checked.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        for row in rows:
            if row.outcome is not None:
                row.check.log(logger.experiment, row.outcome, setup)
        if are_images(setup.inputs):
            logger.experiment.add_image("checks/inputs", input_grid(setup.inputs), 0)
        logger.experiment.add_text("findings", markdown(findings), 0)
