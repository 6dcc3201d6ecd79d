"""The statistics of BatchNorm layers, estimated anew for given weights."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn


def tracking_layers(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of `module` whose statistics follow the batches: in training mode, not frozen."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.running_mean is not None
    ]


def has_statistics(norm: _BatchNorm) -> bool:
    """Whether running statistics differ from those of a layer that never saw a batch; False where it has
    none."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and bool((mean != 0).any() or (variance != 1).any())


def reestimate(layers: Sequence[_BatchNorm], run: Callable[[Any], Any], batches: Iterable[Any]) -> int:
    """Set the running mean and variance of `layers`, which are in training mode, to their means over
    `batches` of training samples, each of which `run` sends through the network; the number of batches, and
    where that is 0 the layers stay as they are. Averaged weights need this: the statistics of no weights that
    went into them are theirs (Izmailov et al., 2018, section 3.2)."""
    waiting = iter(batches)
    first = next(waiting, None)
    if first is None or not layers:
        return 0
    passes = _Passes(layers, run)
    momenta = [layer.momentum for layer in layers]
    try:
        update_bn(([batch] for batch in chain([first], waiting)), passes)  # of a list it passes on the first
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    return passes.count


class _Passes(nn.Module):
    """Shows `update_bn` the layers to estimate alone, and runs the whole network."""

    def __init__(self, layers: Sequence[_BatchNorm], run: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layers, self.run, self.count = nn.ModuleList(layers), run, 0

    def forward(self, batch: Any) -> None:
        self.run(batch)
        self.count += 1


@torch.no_grad()
def pooled(layers: Sequence[_BatchNorm], mean_over_processes: Callable[[Tensor], Tensor]) -> None:
    """Give `layers` the statistics of the samples of all processes together, each with as many as the others:
    the variance of all is the mean of the variances within them and the variance of their means, for which
    `mean_over_processes` takes that of a float tensor, element by element."""
    if not layers:
        return
    means = torch.cat([_statistic(layer.running_mean) for layer in layers])
    squares = torch.cat([_statistic(layer.running_var) for layer in layers]) + means**2
    means, squares = mean_over_processes(torch.stack([means, squares]))
    sizes = [layer.num_features for layer in layers]
    for layer, mean, square in zip(layers, means.split(sizes), squares.split(sizes), strict=True):
        _statistic(layer.running_mean).copy_(mean)
        _statistic(layer.running_var).copy_(square - mean**2)


def _statistic(buffer: Tensor | None) -> Tensor:
    assert buffer is not None
    return buffer
