"""The picture of the first layer, and how far it has come from its beginning."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import Attention, Foreign, convnet, mlp
from monitoring import some, watched
from PIL import Image
from torch import Tensor, nn

from vitals.measures.filters import filter_grid
from vitals.monitors.first_layer_filters import FirstLayerFilters


class Late(nn.Module):
    """The layer registered first is executed last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.stem = nn.Linear(4 * 16, 10), nn.Conv2d(1, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu().flatten(1))


def normalized() -> nn.Module:
    net = convnet()
    nn.utils.parametrizations.weight_norm(net[0])
    return net


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[Any], Tensor]]] = {
    "convolution": (convnet, "net.0", lambda net: net[0].weight),
    "linear on pixels": (mlp, "net.1", lambda net: net[1].weight.view(32, 1, 8, 8)),
    "order of execution": (Late, "net.stem", lambda net: net.stem.weight),
    "weight normalization": (normalized, "net.0", lambda net: net[0].weight),
    "compiled": (
        lambda: torch.compile(convnet(), backend="eager"),
        "net.0",
        lambda net: net._orig_mod[0].weight,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_picture_is_that_of_the_first_layer_executed_from_before_the_first_step(
    name: str, tmp_path: Path
) -> None:
    make, layer, weights = NETWORKS[name]
    module = Foreign(make(), 0.5)
    begin = weights(module.net).detach().clone()
    _, events, diagnosis = watched(module, tmp_path, FirstLayerFilters(2, None))
    end = weights(module.net).detach()
    images = events.images(f"filters/{layer}")
    assert list(images) == [0, 1, 2, 4]
    for step, filters in ((0, begin), (4, end)):
        shown = np.asarray(Image.open(io.BytesIO(images[step])))
        assert np.array_equal(shown, filter_grid(filters).permute(1, 2, 0).numpy())
    moved = events.scalars("filters/moved")
    assert list(moved) == [0, 1, 2, 4]
    assert moved[0] == pytest.approx(0, abs=1e-6)
    cosine = float((begin * end).sum() / begin.norm() / end.norm())
    assert moved[4] == pytest.approx(1 - cosine, rel=1e-3, abs=1e-6)
    assert moved[4] > 1e-5
    assert bool(events.tags(prefix="filters/smoothness")) == (end.shape[-1] >= 5)
    assert diagnosis.recorder.history.series(f"filters/{layer}").steps == [0, 1, 2, 4]


def test_a_transformer_on_rows_has_no_filters(tmp_path: Path) -> None:
    _trainer, _, diagnosis = watched(Foreign(Attention()), tmp_path, FirstLayerFilters())
    [finding] = diagnosis.findings
    assert finding.message == (
        "FirstLayerFilters: the first layer 'net.embed' does not work on images of 1 or 3 channels."
    )


def test_the_beginning_survives_a_resume(tmp_path: Path) -> None:
    begin = convnet()[0].weight.detach().clone()
    trainer, events, _ = watched(Foreign(convnet(), 0.5), tmp_path / "one", FirstLayerFilters(1, None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    module, second = Foreign(convnet(), 0.5), FirstLayerFilters(1, None)
    _, later, _ = watched(
        module, tmp_path / "two", second, train=some(), max_epochs=2, ckpt_path=tmp_path / "last.ckpt"
    )
    assert second.beginning is not None
    assert torch.equal(second.beginning, begin)
    assert list(later.scalars("filters/moved")) == [5, 6, 7, 8]
    assert later.scalars("filters/moved")[5] >= 0.5 * events.scalars("filters/moved")[4]
