"""Gradients that are clipped or scaled between backward and step: the checks take the steps that the training
takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from foreign import Foreign, alarms, fit, mlp, quick
from torch import nn

RATE = 20.0


def found(module: Any, folder: Path, **options: Any) -> list[str]:
    checks = quick(checks=["step_size", "loss_at_chance"])
    fit(module, folder, checks, **options)
    return alarms(checks.findings)


def test_a_large_rate_with_strong_clipping_is_no_large_step(tmp_path: Path) -> None:
    assert found(Foreign(mlp(), lr=RATE), tmp_path) == ["learning-rate-too-high"]
    assert found(Foreign(mlp(), lr=RATE), tmp_path, gradient_clip_val=0.01) == []
    clipped = {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}
    assert found(Foreign(mlp(), lr=RATE), tmp_path, **clipped) == []


class ByHand(Foreign):
    """A scaled loss, as in mixed precision, and gradients that are scaled back and clipped by hand."""

    scale = 1024.0

    def __init__(self, lr: float, clip: float, scaled_back: bool = True) -> None:
        super().__init__(mlp(), lr)
        self.automatic_optimization = False
        self.clip, self.scaled_back = clip, scaled_back

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss * self.scale)
        for parameter in self.net.parameters() if self.scaled_back else ():
            parameter.grad /= self.scale
        nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        optimizer.step()
        return loss


def test_what_a_step_by_hand_does_to_gradients_counts(tmp_path: Path) -> None:
    assert found(ByHand(0.05, clip=100.0), tmp_path) == []
    assert found(ByHand(RATE, clip=100.0), tmp_path) == ["learning-rate-too-high"]
    assert found(ByHand(RATE, clip=0.01), tmp_path) == []
    assert found(ByHand(0.05, clip=1e9, scaled_back=False), tmp_path) == ["learning-rate-too-high"]
