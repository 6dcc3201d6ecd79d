"""Which parameters decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(
    network: nn.Module, weight_decay: float, decay_bias_and_norm: bool = False
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer: `decay`, and `no_decay` for biases and norm scales.

    A parameter of less than two dimensions is a bias or a scale. Frozen parameters are left out. A group
    without parameters, and the split where nothing decays, are left out too.

    Args:
        network: whose parameters.
        weight_decay: of the group `decay`, 0 or more.
        decay_bias_and_norm: put every parameter into `decay`.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if decay_bias_and_norm or not weight_decay:
        return [{"params": parameters, "weight_decay": weight_decay, "name": "all"}]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay, "name": "decay"},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "name": "no_decay"},
    ]
    return [group for group in groups if group["params"]]
