"""Weights that are as an initialization drew them: never trained, nor loaded from a trained network."""

import math

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.normalization import GroupNorm, LayerNorm
from torch.nn.parameter import is_lazy

from vitals.measures.batch_norm import has_statistics
from vitals.measures.double import double
from vitals.measures.parametrized import as_kept

FEWEST = 64
"""Weights below which nothing can be said of how they were drawn."""
MOST = 2**18
"""Weights whose moments are taken, evenly spaced; the largest is that of all."""
MOSTLY = 0.5
"""Share of layers as they were drawn, from which a network is new."""
ERRORS = 4.0
"""Standard errors by which the moments of a draw may be off."""
EDGE = 10.0
"""The largest of n uniform numbers comes closer to the bound than this share 1/n of it but once in e^10."""
FIXED = (1.0, 0.02)
"""Standard deviations of normal draws of any layer: torch's `normal_`, and that of most transformers."""
NORMS = (_BatchNorm, LayerNorm, GroupNorm)


def fresh_layers(model: nn.Module) -> list[str]:
    """Names of the linear and convolutional layers of `model` that look as they were drawn.

    None where a frozen normalization has learned something: then the network has been trained.
    """
    for module in model.modules():
        if isinstance(module, NORMS) and not _untouched(module):
            return []
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd) and _drawn_as_usual(module)
    ]


def fresh_share(model: nn.Module) -> float:
    """Share of the linear and convolutional layers of `model` that look as they were drawn; 0 without any."""
    layers = sum(isinstance(module, nn.Linear | _ConvNd) for module in model.modules())
    return len(fresh_layers(model)) / layers if layers else 0.0


def is_fresh(model: nn.Module) -> bool:
    """Whether `model` is new, as most of its layers are as they were drawn."""
    return fresh_share(model) > MOSTLY


def is_new(part: nn.Module) -> bool:
    """The same of a part that may have no such layer, but embeddings and recurrences."""
    if any(isinstance(module, nn.Linear | _ConvNd) for module in part.modules()):
        return is_fresh(part)
    weights = [m.weight[m.weight.any(1)] for m in part.modules() if isinstance(m, nn.Embedding)]
    recurrent = (m.named_parameters() for m in part.modules() if isinstance(m, nn.RNNBase))
    weights += [each for named in recurrent for name, each in named if name.startswith("weight_hh")]
    return bool(weights) and all(map(looks_drawn, weights))


def frozen_fresh_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Children of `model` of two layers and more, all of which look as they were drawn and are frozen, by
    name."""
    found = {}
    for name, child in model.named_children():
        layers = sum(isinstance(module, nn.Linear | _ConvNd) for module in child.modules())
        frozen = layers > 1 and not any(parameter.requires_grad for parameter in child.parameters())
        if frozen and len(fresh_layers(child)) == layers:
            found[name] = child
    return found


def looks_drawn(weight: Tensor) -> bool:
    """Whether `weight` (units, ...) has the distribution of one of the usual initializations.

    torch's default, Kaiming's and Xavier's, uniform or normal (torch.nn.init), and normal ones of `FIXED`.
    Training takes weights beyond the bound of a uniform draw in its first steps, and changes scale and
    kurtosis of a normal one.
    """
    if is_lazy(weight) or weight.ndim < 2 or weight.numel() < FEWEST:
        return False
    fan_in, fan_out = weight[0].numel(), weight.numel() // weight.shape[1]
    # An odd spacing, so that it does not keep to the same inputs of every unit.
    spacing = (weight.numel() // MOST) | 1
    values = double(weight.detach().flatten()[::spacing])
    count = len(values)
    mean, sd = float(values.mean()), float(values.std())
    largest = max(map(abs, map(float, weight.detach().aminmax())))
    if not sd > 0 or abs(mean) > ERRORS * sd / math.sqrt(count):
        return False
    kurtosis = float((values - mean).pow(4).mean()) / sd**4
    he_in, he_out, xavier = 2 / fan_in, 2 / fan_out, 2 / (fan_in + fan_out)
    for variance in (1 / (3 * fan_in), he_in, he_out, xavier):
        bound = math.sqrt(3 * variance)
        if bound * (1 - EDGE / weight.numel()) < largest <= bound * (1 + 1e-6):
            return abs(kurtosis - 1.8) < ERRORS / math.sqrt(count)
    normal = abs(kurtosis - 3) < ERRORS * math.sqrt(24 / count)
    scales = [math.sqrt(variance) for variance in (he_in, he_out, xavier, 1 / fan_in)]
    return normal and any(abs(sd / scale - 1) < ERRORS / math.sqrt(2 * count) for scale in (*scales, *FIXED))


def _drawn_as_usual(layer: nn.Linear | _ConvNd) -> bool:
    weight, bias = as_kept(layer, "weight"), as_kept(layer, "bias")
    if not isinstance(weight, Tensor) or not looks_drawn(weight):
        return False
    if not isinstance(bias, Tensor):
        return True
    bound = 1 / math.sqrt(weight[0].numel())
    bias = bias.detach()
    return bool((bias == bias[0]).all()) or float(bias.abs().max()) <= bound * (1 + 1e-6)


def _untouched(norm: nn.Module) -> bool:
    """Whether scale, shift and statistics of a frozen normalization are those that it began with."""
    given = [p for p in norm.parameters(recurse=False) if not p.requires_grad]
    if given and isinstance(norm, _BatchNorm) and has_statistics(norm):
        return False
    return all(bool((values == values.flatten()[0]).all()) for values in given)
