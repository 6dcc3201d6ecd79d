"""Starting weights have the scale that their name promises."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from project.build import build_network
from project.networks.initialization import whiten
from vitals.runs.config.overrides import groups

NETWORKS = groups([Path(__file__).parents[3] / "configs"])["network"]


@pytest.fixture
def weights_of(compose):
    """Weights of the hidden layers and of the head, each rows × fan-in, as configured."""

    def weights_of(*words, activation="relu"):
        config = compose(*words)
        config.network.activation = activation
        torch.manual_seed(0)
        network = build_network(config, 10, (3, 32, 32))
        layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        assert not any(layer.bias.any() for layer in layers if layer.bias is not None)
        *hidden, head = (layer.weight.detach() for layer in layers)
        return hidden, head

    return weights_of


def assert_normal(weight, std):
    """Mean 0 and the given deviation, up to five standard errors."""
    count = weight.numel()
    assert abs(weight.mean()) < 5 * std / count**0.5
    assert weight.std().item() == pytest.approx(std, rel=5 / (2 * count) ** 0.5)


def fan_in(weight):
    return weight[0].numel()


def fan_out(weight):
    return weight.shape[0] * weight[0, 0].numel()


@pytest.mark.parametrize("name", NETWORKS)
def test_kaiming_has_deviation_root_2_over_root_fan_in_in_every_network(weights_of, name):
    hidden, head = weights_of(f"network={name}", "network/initialization=kaiming")
    for weight in hidden:
        assert_normal(weight, math.sqrt(2 / fan_in(weight)))
    assert_normal(head, 0.01)


def test_xavier_has_the_mean_of_both_fans(weights_of):
    hidden, head = weights_of("network.initialization=xavier", activation="tanh")
    for weight in hidden:
        assert_normal(weight, 5 / 3 * math.sqrt(2 / (fan_in(weight) + fan_out(weight))))
    assert_normal(head, 0.01)


def test_orthogonal_has_orthogonal_rows_or_columns_times_the_gain(weights_of):
    hidden, head = weights_of("network.initialization=orthogonal")
    for weight in hidden:
        rows = weight.flatten(1)
        short = rows if rows.shape[0] <= rows.shape[1] else rows.T
        torch.testing.assert_close(short @ short.T, 2 * torch.eye(len(short)), rtol=0, atol=1e-4)
    assert_normal(head, 0.01)


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 5 / 3), ("sigmoid", 1), ("silu", math.sqrt(2))])
def test_the_gain_is_that_of_the_activation(weights_of, activation, gain):
    hidden, _ = weights_of(activation=activation)
    for weight in hidden:
        assert_normal(weight, gain / math.sqrt(fan_in(weight)))


@pytest.mark.parametrize("std", [0.01, 0.2])
def test_gaussian_has_its_deviation_everywhere_the_head_included(weights_of, std):
    hidden, head = weights_of("network.initialization=gaussian", f"network.initialization.std={std}")
    for weight in [*hidden, head]:
        assert_normal(weight, std)


def test_kaiming_keeps_the_signal_of_eight_layers_and_small_gaussians_lose_it(compose):
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scale = {}
    for name in ("kaiming", "gaussian"):
        torch.manual_seed(0)
        config = compose("network=mlp", f"network.initialization={name}")
        network = build_network(config, 10, (3, 32, 32))
        scale[name] = network.layers(network.flatten(images)).square().mean().item()
    assert 0.3 < scale["kaiming"] < 3
    assert scale["gaussian"] < 1e-6


def test_dirac_passes_the_inputs_on(compose):
    config = compose("network=convnet", "network/initialization=dirac", "network.widths=[8,12]")
    torch.manual_seed(0)
    convolution = build_network(config, 10, (3, 16, 16)).stages[1][1][0]
    images = torch.randn(2, 8, 6, 6)
    passed, others = convolution(images).split([8, 4], dim=1)
    torch.testing.assert_close(passed, images)
    assert others.std() > 0.1


def test_whitened_patches_are_uncorrelated_and_of_variance_1_with_frozen_filters(compose):
    images = torch.randn(300, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = images.cumsum(-1).cumsum(-2) / 8  # neighbours are alike, as in pictures
    network = build_network(compose("network=fast"), 10, (3, 32, 32))
    whiten(network, images)
    stem = network.stem[0]
    assert not stem.weight.requires_grad
    assert stem.bias.requires_grad
    outputs = stem(images).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs[16:], -outputs[:16])
    moments = outputs[:16] @ outputs[:16].T / outputs.shape[1]
    torch.testing.assert_close(moments, torch.diag(moments.diagonal()), atol=0.01, rtol=0)
    assert 0.9 < moments.diagonal().min() <= moments.diagonal().max() < 1.01


def test_what_has_no_filters_to_whiten_is_told_so(compose):
    for words in (["network=mlp"], ["network=convnet", "network.widths=[7,8]"]):
        with pytest.raises(ValueError, match="first convolution with an even number of filters"):
            whiten(build_network(compose(*words), 10, (3, 32, 32)), torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"mlp"}))
def test_every_network_with_a_convolution_can_be_whitened(compose, name):
    assert compose(f"network={name}", "network.whiten=true").network.whiten
