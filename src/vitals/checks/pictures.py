"""Pictures of what the checks saw."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from vitals.checks.gradients.step_study import StepSizeStudy
from vitals.checks.layer_variance import LayerVariance
from vitals.checks.step_size import StepSize
from vitals.checks.tiny_subset import TinySubset

SHOWN = 64
"""Images in the grid."""


def are_images(inputs: Tensor) -> bool:
    """Whether `inputs` are grey or colour images, (N, 1, H, W) or (N, 3, H, W)."""
    return inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def in_range(images: Tensor) -> Tensor:
    """`images` on a scale from 0 (their smallest value) to 1 (their largest), on the CPU; NaN is 0."""
    values = images.detach().float().cpu().nan_to_num(posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def input_grid(inputs: Tensor) -> Tensor:
    """The first images (N, C, H, W) as the network gets them, in one picture (3, H', W') from 0 to 1."""
    return make_grid(in_range(inputs[:SHOWN]), nrow=8)


def tiny_subset_figure(result: TinySubset, inputs: Tensor) -> Figure:
    """The twenty images, each under its label, and under the prediction where that is another.

    Args:
        result: of the check.
        inputs: images (N, C, H, W) from which it took them.
    """
    images = in_range(inputs[result.indices.to(inputs.device)]).permute(0, 2, 3, 1)
    figure = Figure(figsize=(8, 7), layout="constrained")
    places = figure.subplots(4, 5).flat
    labelled = zip(places, images, result.targets.tolist(), result.final.predictions.tolist(), strict=False)
    for place, image, label, prediction in labelled:
        place.imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        right = label == prediction
        place.set_title(f"{label}" if right else f"{label}, predicted {prediction}", fontsize=9)
        place.title.set_color("black" if right else "red")
    for place in figure.axes:
        place.axis("off")
    return figure


def step_size_figure(result: StepSize) -> Figure:
    """Loss after the optimizer's first update, over multiples of the learning rate."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    limit = 10 * max(result.start, 1e-6)
    axes.plot(result.factors, [min(loss, limit) if loss == loss else limit for loss in result.losses], "o-")
    axes.axhline(result.start, color="gray", linestyle=":", label="before the update")
    axes.axvline(1.0, color="tab:red", label=f"configured: {max(result.learning_rates):g}")
    axes.set(
        xscale="log", xlabel="multiple of the learning rate", ylabel="loss (cut off at ten times the first)"
    )
    axes.legend()
    return figure


def difference_step_figure(result: StepSizeStudy) -> Figure:
    """Relative error of centred and forward differences over their step h: truncation against rounding."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for kind, marker in (("centred", "o-"), ("forward", "s--")):
        points = [(error.h, getattr(error, kind)) for error in result.errors if getattr(error, kind)]
        axes.plot(*zip(*points, strict=True), marker, label=kind) if points else None
    axes.set(xscale="log", yscale="log", xlabel="step h", ylabel="relative error, median over elements")
    axes.legend()
    return figure


def layer_variance_figure(result: LayerVariance) -> Figure:
    """Variance of the signal that enters each layer, on a logarithmic scale."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    signals = [max(row.signal_variance, 1e-45) for row in result.layers]
    axes.plot(range(len(signals)), signals, "o-")
    axes.set(yscale="log", xlabel="layer", ylabel="variance over samples")
    axes.set_xticks(range(len(signals)), [row.name for row in result.layers], rotation=60, fontsize=7)
    axes.axhline(signals[0], color="gray", linestyle=":")
    return figure
