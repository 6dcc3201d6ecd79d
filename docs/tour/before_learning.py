"""What is known before the first step: is the backward right, and does the network begin where it should?

On scikit-learn's digits, which need no download.
"""

from __future__ import annotations

import textwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.compare import composed
from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, GREY, ORANGE, RED, Stop, drawing
from project.build import build_data, build_network
from vitals.checks.gradients.check import check_gradients
from vitals.checks.gradients.result import PROBABLY_WRONG
from vitals.checks.gradients.step_study import step_size_study
from vitals.checks.layer_variance import check_layer_variance
from vitals.checks.loss_at_chance import check_loss_at_chance
from vitals.checks.page import in_range


def network_and_images(*words: str, count: int = 256) -> tuple[nn.Module, Tensor, Tensor]:
    """A configured network as it is initialized, normalized training images, N×C×H×W, and their labels."""
    config = composed("data=digits", *words)
    data = build_data(config)
    data.setup()
    torch.manual_seed(0)
    network = build_network(config, len(data.classes), data.image_shape)
    return network, data.sample(count), data.train.limited(count, data.split_seed).labels


def difference_steps(runs: Runs) -> Stop:
    """The error of a gradient check over its step h"""
    case = network_and_images("network=three_layer", "network.activation=tanh")
    figure, axes = drawing(height=4.4)
    figures = {}
    for digits, dtype, colour in (("32", torch.float32, ORANGE), ("64", torch.float64, BLUE)):
        steps = [10 ** (-half / 2) for half in range(2, 23)]
        study = step_size_study(case[0], cross_entropy, *case[1:], elements=8, steps=steps, dtype=dtype)
        for kind, line in (("forward", "s:"), ("centred", "o-")):
            points = [(row.h, error) for row in study.errors if (error := getattr(row, kind))]
            label = f"{kind}, float{digits}"
            axes.plot(*zip(*points, strict=True), line, color=colour, label=label, markersize=4)
            error, h = min((error, h) for h, error in points)
            figures[f"least error, {label}"] = error
            if kind == "centred":
                figures[f"its step h, float{digits}"] = h
    axes.axvspan(1e-6, 1e-4, color=GREEN, alpha=0.12, linewidth=0)
    axes.text(1e-5, 3e-10, "the check's steps", color=GREEN, ha="center", va="top", fontsize=9)
    axes.text(2e-9, 1.5e-7, "rounding", color=BLUE, rotation=-33, ha="center")
    axes.text(1.3e-2, 3e-7, "truncation, h²", color=BLUE, rotation=55, ha="center")
    axes.axhline(PROBABLY_WRONG, color=RED, linewidth=1, linestyle="--")
    axes.text(1e-11, 1.3 * PROBABLY_WRONG, "above: probably wrong", color=RED, fontsize=9)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(1e-10, 5),
        xlabel="step h",
        ylabel="relative error, median over elements",
    )
    axes.legend(loc="lower left", ncols=1)
    return Stop(figure, figures)


class ForgottenMask(torch.autograd.Function):
    """A ReLU by hand whose author forgot, in its backward, that half of the inputs did not pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class WrongReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = ForgottenMask.apply(x)
        return outputs


BEHIND = "stages.1.1"
"""The block of the default network whose ReLU is exchanged."""


def planted_bug(runs: Runs) -> Stop:
    """A wrong backward, found and located by a gradient check"""
    network, images, labels = network_and_images()
    right = check_gradients(network, cross_entropy, images, labels, elements=4)
    block = network.get_submodule(BEHIND)
    assert isinstance(block, nn.Sequential)
    block[2] = WrongReLU()
    wrong = check_gradients(network, cross_entropy, images, labels, elements=4)
    summaries = sorted(wrong.summaries, key=lambda summary: summary.order)
    names = [summary.parameter for summary in summaries]
    figure, axes = drawing(height=5.6)
    errors = {}
    for check, colour, label, size in (
        (right, GREEN, "torch's ReLU", 10),
        (wrong, RED, "a ReLU with a wrong backward", 6),
    ):
        of = {summary.parameter: summary.max_error or 0.0 for summary in check.summaries}
        errors[label] = [of[name] for name in names]
        axes.plot(errors[label], range(len(names)), "o", color=colour, label=label, markersize=size)
    place = sum(summary.level == "fail" for summary in summaries) - 0.5
    axes.axhline(place, color=RED, linewidth=1)
    axes.text(1e-6, place - 0.15, "here is the wrong backward", color=RED, fontsize=10, va="bottom")
    axes.axvline(PROBABLY_WRONG, color=GREY, linewidth=1, linestyle="--")
    axes.text(1.3 * PROBABLY_WRONG, -0.6, "probably wrong", color=GREY, fontsize=9, va="bottom")
    axes.set(xscale="log", xlim=(1e-11, 10), xlabel="largest relative error of the parameter's elements")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_title(textwrap.fill(f"“{wrong.findings()[0].remedy}”", 95), fontsize=10, style="italic")
    axes.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    figures = {
        "largest error with torch's ReLU": max(errors["torch's ReLU"]),
        "tensors called wrong": float(place + 0.5),
        "tensors in all": float(len(names)),
    }
    return Stop(figure, figures, text=wrong.table())


def initializations(runs: Runs) -> Stop:
    """Two initializations, layer by layer"""
    figure, axes = drawing()
    figures, tables = {}, []
    for name, title, colour in (
        ("gaussian", "N(0, 0.01²)", RED),
        ("kaiming", "He: N(0, 2/fan-in)", GREEN),
    ):
        network, images, _ = network_and_images("network=mlp", f"network/initialization={name}", count=512)
        signal = check_layer_variance(network, images)
        rows = [row.signal_variance for row in signal.layers]
        axes.plot(rows, "o-", color=colour, label=title)
        [finding, *_] = signal.findings()
        axes.annotate(
            f"{signal.slope:+.2f} decades a layer\n{finding.cause}: {finding.level}",
            (len(rows) - 1, rows[-1]),
            (-115, -4) if name == "gaussian" else (0, -14),
            textcoords="offset points",
            color=colour,
            ha="right",
            va="bottom" if name == "gaussian" else "top",
        )
        figures[f"decades a layer, {title}"] = signal.slope
        figures[f"variance in the last layer, {title}"] = rows[-1]
        tables.append(f"{title}\n{signal.table()}")
    axes.set(yscale="log", xlabel="layer (0: the images)", ylabel="variance of the signal")
    axes.legend(loc="lower left")
    return Stop(figure, figures, text="\n\n".join(tables))


def loss_at_chance(runs: Runs) -> Stop:
    """The loss before the first step"""
    cases = {
        name: network_and_images(f"network={name}", count=128)
        for name in ("convnet", "resnet18", "vgg", "fast", "three_layer", "mlp")
    }
    network, images, labels = network_and_images("network=convnet", count=128)
    nn.init.normal_(network.get_parameter("head.weight"))
    cases["convnet, last layer N(0, 1)"] = network, images, labels
    network, images, labels = network_and_images("network=three_layer", count=128)
    cases["three_layer, pixels from 0 to 255"] = network, 255 * in_range(images), labels
    cases["mlp, weights N(0, 0.2²)"] = network_and_images(
        "network=mlp", "network/initialization=gaussian", "network.initialization.std=0.2", count=128
    )
    figure, axes = drawing()
    figures = {}
    for place, (name, (network, images, labels)) in enumerate(cases.items()):
        result = check_loss_at_chance(network, cross_entropy, images, labels)
        [finding, *_] = result.findings()
        colour = {"ok": GREEN, "note": ORANGE, "warn": RED, "fail": RED}[finding.level]
        axes.plot(result.loss, place, "o", color=colour, markersize=9)
        axes.annotate(
            f"{result.loss:,.2f}  {finding.level}",
            (result.loss, place),
            (9, -4),
            textcoords="offset points",
            color=colour,
        )
        figures[f"loss of {name}"] = result.loss
    axes.axvline(result.chance, color=GREY, linestyle="--")
    axes.set_title(f"ln 10 = {result.chance:.3f}", color=GREY, loc="left")
    axes.set(xscale="log", xlim=(1, 1e5), xlabel="loss on 128 training images, before the first step")
    axes.set_yticks(range(len(cases)), list(cases))
    axes.invert_yaxis()
    return Stop(figure, figures)
