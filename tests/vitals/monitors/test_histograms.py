"""A look into the layers of many kinds of networks, read back from the event file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
import torchvision
from foreign import Attention, Foreign, Residual, convnet, mlp
from lightning.pytorch.callbacks import Callback, ModelPruning
from monitoring import Events, monitors, skipped, some, watched
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from vitals.measures.histogram import MOST_VALUES
from vitals.monitors.histograms import Histograms


class Functional(nn.Module):
    """No module but for the weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(self.conv(x), (6, 6)).clamp(min=0) * self.gain[:, None, None]
        return self.head(F.dropout(x, 0.1, self.training).mean((2, 3)))


def colour(net: nn.Module, size: int) -> nn.Module:
    """For networks of torchvision, made for large colour images."""
    large = nn.Upsample(size=size)
    return nn.Sequential(large, nn.Conv2d(1, 3, 1, bias=False).requires_grad_(False), net)


def vision_transformer() -> nn.Module:
    net = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )
    return colour(net, 8)


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        torch.manual_seed(0)
        return make()

    return made


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp": (mlp, 2),
    "convolution, BatchNorm, dropout": (convnet, 2),
    "residual": (Residual, 6),
    "transformer": (Attention, 4),
    "functional": (Functional, 2),
    "resnet": (seeded(lambda: colour(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10), 16)), 14),
    "mobilenet": (seeded(lambda: colour(torchvision.models.mobilenet_v3_small(num_classes=10), 16)), 55),
    "vision transformer": (seeded(vision_transformer), 7),
}


class ByHand(Callback):
    """Weights, and gradients of the fixed batch in a copy of the network, after each step."""

    def __init__(self) -> None:
        self.batch: Any = None
        self.found: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.batch is None:
            self.batch = [values[:16].clone() for values in batch]
        net = copy.deepcopy(pl_module.net)
        states = torch.get_rng_state()
        torch.manual_seed(0)
        F.cross_entropy(net(self.batch[0]), self.batch[1]).backward()
        torch.set_rng_state(states)
        weights = {name: p.detach() for name, p in net.named_parameters()}
        gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        self.found[trainer.global_step] = weights, gradients


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_seen_and_histograms_are_those_of_numpy(name: str, tmp_path: Path) -> None:
    make, layers = NETWORKS[name]
    by_hand = ByHand()
    look = Histograms(2, None, histograms_every=1, samples=16)
    _, events, _ = watched(Foreign(make(), 0.01), tmp_path, look, by_hand, train=some(2))
    assert look.findings == []
    named = events.tags(prefix="activations/variance/")
    assert len(named) == layers
    groups = [f"activations/{kind}" for kind in ("mean", "std", "variance", "dead_units", "saturated_units")]
    for group in (*groups, "gradients/variance"):
        tags = events.tags(prefix=f"{group}/")
        assert [tag.removeprefix(f"{group}/") for tag in tags] == [tag.split("/")[2] for tag in named]
    assert all(list(events.scalars(tag)) == [1, 2] for tag in named)
    for step, (weights, gradients) in by_hand.found.items():
        # A bias before BatchNorm has the gradient 0, and of it nothing but the rounding of this processor: at
        # most 2e-7 of the largest gradient in these networks, while every other has 7e-4 and more, or is 0.
        # Where it began at 0, its weight is no more.
        sizes = {parameter: float(values.abs().max()) for parameter, values in gradients.items()}
        noise = {parameter for parameter, size in sizes.items() if 0 < size < 1e-5 * max(sizes.values())}
        for kind, tensors in (("weights", weights), ("gradients", gradients)):
            assert len(events.tags("histograms", f"{kind}/")) == len(tensors)
            for parameter, values in tensors.items():
                if values.numel() <= MOST_VALUES and parameter not in noise:
                    check(events.histograms(f"{kind}/net.{parameter}")[step], values)


def check(found: Any, values: Tensor) -> None:
    """One histogram of the event file against NumPy's."""
    exact = values.double().flatten().numpy()
    assert (found.num, found.min) == (exact.size, pytest.approx(exact.min(), rel=1e-3, abs=1e-9))
    assert found.sum == pytest.approx(exact.sum(), rel=1e-3, abs=1e-4 * (1 + np.abs(exact).sum()))
    if exact.max() > exact.min():
        # Twins and summation order differ in the last digit: a few values may lie across an edge.
        limits = np.array([found.min, *found.bucket_limit[-64:]])
        counts, _ = np.histogram(exact, np.unique(limits))
        assert np.abs(np.array(found.bucket[-len(counts) :]) - counts).sum() <= 2 + 0.05 * exact.size


def test_statistics_are_those_of_the_network_that_trains(tmp_path: Path) -> None:
    look, by_hand = Histograms(1, None, samples=16), ByHand()
    _, events, _ = watched(Foreign(convnet(), 0.01), tmp_path, look, by_hand, train=some(1))
    weights, _ = by_hand.found[1]
    net = convnet()
    net.load_state_dict(weights, strict=False)
    values = net[2](net[1](net[0](by_hand.batch[0])))
    assert events.scalars("activations/mean/net.0")[1] == pytest.approx(float(values.mean()), rel=1e-4)
    assert events.scalars("activations/std/net.0")[1] == pytest.approx(float(values.std()), rel=1e-3)
    dead = float((values.amax((0, 2, 3)) == 0).float().mean())
    assert events.scalars("activations/dead_units/net.0")[1] == pytest.approx(dead)


def test_layers_come_in_the_order_of_execution(tmp_path: Path) -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(5, 10), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.first(x.flatten(1))))

    _, _, diagnosis = watched(Foreign(Reversed()), tmp_path, Histograms(1, None))
    expected = ["activation_mean/net.first", "activation_mean/net.last"]
    assert diagnosis.recorder.history.tags("activation_mean/") == expected


class Quiet(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("what", ["network", "module"])
def test_compiled_graphs_and_figures_stay_as_they_are(what: str, tmp_path: Path) -> None:
    def run(folder: Path, compiled: bool, *callbacks: Callback) -> tuple[Any, Events, dict[str, str]]:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        module: Any = Quiet(mlp(norm=True))
        if compiled and what == "network":
            module.net = torch.compile(module.net, backend="eager")
        elif compiled:
            module = torch.compile(module, backend="eager")
        trainer, events, diagnosis = watched(module, folder, *callbacks, train=some(3))
        counters = torch._dynamo.utils.counters
        return dict(counters["stats"]), events, skipped(diagnosis, trainer)

    bare, _, _ = run(tmp_path / "bare", True)
    graphs, compiled, reasons = run(tmp_path / "compiled", True, *monitors())
    _, eager, _ = run(tmp_path / "eager", False, *monitors())
    assert reasons == {}
    assert bare["unique_graphs"] >= 1
    assert graphs["unique_graphs"] == bare["unique_graphs"]
    ours = {tag for tag in eager.tags() if not tag.startswith("run/") and tag not in ("epoch", "loss")}
    assert compiled.tags() == eager.tags()
    for tag in ours:
        assert compiled.scalars(tag) == pytest.approx(eager.scalars(tag), rel=1e-5, abs=1e-7, nan_ok=True)
    torch._dynamo.reset()


class Constant(Foreign):
    """The first layer's weights are all NaN from the second step on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            with torch.no_grad():
                self.net[1].weight.fill_(torch.nan)


def test_histograms_of_nothing_but_nan_are_left_out_and_the_event_file_can_be_read(tmp_path: Path) -> None:
    look = Histograms(1, None, histograms_every=1)
    trainer, events, _ = watched(Constant(mlp()), tmp_path, look)
    assert trainer.global_step == 4
    assert look.findings == []
    assert list(events.histograms("weights/net.1.weight")) == [1]
    values = events.scalars("activations/mean/net.1")
    assert [np.isnan(value) for value in values.values()] == [False, True, True, True]


def test_histograms_follow_a_change_of_scale(tmp_path: Path) -> None:
    class Grows(Foreign):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            with torch.no_grad():
                self.net[1].weight.mul_(100.0)

    _, events, _ = watched(Grows(mlp(), 0.0), tmp_path, Histograms(1, None, histograms_every=1))
    found = events.histograms("weights/net.1.weight")
    assert list(found) == [1, 2, 3, 4]
    assert all(np.count_nonzero(each.bucket) > 50 for each in found.values())


def test_layers_that_are_pruned_amid_the_training_are_looked_at_on(tmp_path: Path) -> None:
    look, prunes = (
        Histograms(1, None),
        ModelPruning("l1_unstructured", amount=1.0, use_lottery_ticket_hypothesis=False),
    )
    _, events, _ = watched(Foreign(mlp()), tmp_path, prunes, look, max_epochs=2)
    values = events.scalars("activations/variance/net.1")
    assert look.findings == []
    assert {step: value > 0 for step, value in values.items()} == {step: step < 5 for step in range(1, 9)}


def test_the_fixed_batch_survives_a_resume(tmp_path: Path) -> None:
    first, second = Histograms(1, None, samples=8), Histograms(1, None, samples=8)
    trainer, _, _ = watched(Foreign(convnet()), tmp_path / "one", first, train=some(3, shuffle=True))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    read = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert "Histograms" in str(read["callbacks"].keys())
    module, data = Foreign(convnet()), some(3, shuffle=True)
    watched(module, tmp_path / "two", second, train=data, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert second.measured == 6
    assert all(map(torch.equal, first.batch, second.batch))


def test_samples_are_gathered_from_several_small_batches(tmp_path: Path) -> None:
    look = Histograms(1, None, histograms_every=1)
    watched(Foreign(mlp(norm=True)), tmp_path, look, train=some(2, 2))
    assert look.findings == []
    assert len(look.batch[0]) == 4


@pytest.mark.parametrize(("every", "steps"), [(500, [1, 20]), (5, [1, 5, 10, 15, 20])])
def test_a_look_that_costs_more_than_the_steps_between_is_taken_less_often_and_says_so_once(
    every: int, steps: list[int], tmp_path: Path
) -> None:
    looks = Histograms(every)
    _, _, diagnosis = watched(Foreign(mlp()), tmp_path, looks, train=some(20, size=4))
    history = diagnosis.recorder.history
    assert history.series(history.tags("activation_mean/")[0]).steps == steps
    assert len([each for each in looks.findings if "8 of your steps" in each.message]) == 1
