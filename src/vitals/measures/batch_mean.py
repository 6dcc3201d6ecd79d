"""A mean over samples, kept on the device batch by batch."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class BatchMean(Metric):
    """The mean over all samples of a figure that each batch gives; a batch whose figure is NaN is left out.

    The host neither looks at a figure nor waits for one, as torchmetrics' `MeanMetric` does with every
    update, unless it is told to let NaN in, and then it forgets the weights.
    """

    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, mean: Tensor, samples: int) -> None:
        """Add a batch of so many samples, by its `mean`, a scalar."""
        known = ~mean.isnan()
        self.total.add_(torch.where(known, mean, 0.0) * samples)  # `+=` would set an attribute of a module
        self.samples.add_(known * samples)

    def compute(self) -> Tensor:
        """NaN where no batch had a figure."""
        return self.total / self.samples
