"""What the checks before learning write to TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from vitals.checks.page import markdown
from vitals.checks.pictures import (
    are_images,
    difference_step_figure,
    input_grid,
    layer_variance_figure,
    step_size_figure,
    tiny_subset_figure,
)
from vitals.checks.suite import Row
from vitals.findings import Finding


def log_checks(
    loggers: Sequence[Logger], rows: Sequence[Row], findings: Sequence[Finding], inputs: Tensor
) -> None:
    """Write scalars, pictures and the text card `findings` to every TensorBoard logger.

    | tag | what |
    | --- | --- |
    | `checks/loss_at_chance` | loss before training |
    | `checks/regularised_loss` | the same with the penalty of the weight decay |
    | `checks/tiny_subset_loss` | loss on twenty examples over the steps of learning them by heart |
    | `checks/gradient_error` | largest relative error of the gradients |
    | `gradcheck/rel_error` | histogram of log10 of the relative errors; exact ones are at -17 |
    | `checks/inputs`, `checks/tiny_subset` | images as the network gets them; the twenty, with predictions |
    | `checks/step_size`, `checks/layer_variance` | curves |
    | `gradcheck/h_curve` | error of the differences over their step, of the check `difference_step` |

    Args:
        loggers: of the trainer.
        rows: of the checks made.
        findings: of all of them.
        inputs: (N, ...), as they enter the network.
    """
    results = {row.check: row.result for row in rows if row.result is not None}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            _scalars(logger.experiment, results)
            _pictures(logger.experiment, results, inputs)
            logger.experiment.add_text("findings", markdown(findings), 0)


def _scalars(writer: Any, results: dict[str, Any]) -> None:
    if result := results.get("loss_at_chance"):
        writer.add_scalar("checks/loss_at_chance", result.loss, 0)
    if result := results.get("regularization"):
        writer.add_scalar("checks/regularised_loss", result.total_loss(), 0)
    if result := results.get("tiny_subset"):
        for step, loss in enumerate(result.final.losses):
            writer.add_scalar("checks/tiny_subset_loss", loss, step)
    if (result := results.get("gradients")) and result.max_error is not None:
        writer.add_scalar("checks/gradient_error", result.max_error, 0)
        errors = torch.tensor([error for error in result.relative_errors if math.isfinite(error)])
        if len(errors):
            writer.add_histogram("gradcheck/rel_error", errors.clamp_min(1e-17).log10(), 0)


def _pictures(writer: Any, results: dict[str, Any], inputs: Tensor) -> None:
    if are_images(inputs):
        writer.add_image("checks/inputs", input_grid(inputs), 0)
        if result := results.get("tiny_subset"):
            writer.add_figure("checks/tiny_subset", tiny_subset_figure(result, inputs), 0)
    if result := results.get("difference_step"):
        writer.add_figure("gradcheck/h_curve", difference_step_figure(result), 0)
    if result := results.get("step_size"):
        writer.add_figure("checks/step_size", step_size_figure(result), 0)
    if result := results.get("layer_variance"):
        writer.add_figure("checks/layer_variance", layer_variance_figure(result), 0)
