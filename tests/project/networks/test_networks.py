"""What every network of the `network=` group must do, whatever it is made of."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from project.build import build_network
from project.data.data_module import ImageData
from project.networks.layers import ACTIVATIONS
from vitals.errors import UserError
from vitals.runs.config.overrides import groups

NETWORKS = groups([Path(__file__).parents[3] / "configs"])["network"]
SMALLER = {"vgg": {"stages": [[8], [8, 16]]}, "mlp": {"depth": 3, "width": 16}}


def small(name):
    """A cheaper version, for what does not depend on the size."""
    return {"size": 16, **SMALLER.get(name, {})}


@pytest.fixture
def make(compose):
    """`make("vgg", dropout=0.5)`: the network as configured, with some values changed; always the same."""

    def make(name, size=32, classes=10, channels=3, **values):
        config = compose(f"network={name}")
        config.network.update(values)
        torch.manual_seed(0)
        return build_network(config, classes, (channels, size, size))

    return make


@pytest.fixture(scope="module")
def digits():
    """Real images as a network gets them, and their labels."""
    data = ImageData("digits", batch_size=64)
    data.setup()
    return next(iter(data.train_dataloader()))


def noise(count, channels=3, size=32):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "channels", "classes"), [(32, 3, 10), (33, 1, 7), (48, 3, 100)])
def test_images_become_one_logit_a_class(make, name, size, channels, classes):
    network = make(name, size, classes, channels)
    logits = network(noise(2, channels, size))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "size"), [("convnet", 8), ("three_layer", 2), ("mlp", 1), ("resnet18", 8)])
def test_small_images_will_do(make, name, size):
    assert make(name, size)(noise(4, size=size)).shape == (4, 10)


@pytest.mark.parametrize(("name", "size"), [("convnet", 6), ("vgg", 31), ("three_layer", 1)])
def test_images_that_are_too_small_are_refused_with_their_size(make, name, size):
    with pytest.raises(UserError, match=f"{size}×{size} pixel") as error:
        make(name, size)
    assert str(error.value).startswith("network: ")


def test_a_convolution_that_would_shrink_the_image_is_refused(make):
    with pytest.raises(UserError, match="kernel_size=4 must be odd"):
        make("three_layer", kernel_size=4)


def assert_every_parameter_learns(network, size=16):
    labels = torch.arange(8) % 10
    cross_entropy(network(noise(8, size=size)), labels).backward()
    reached = {
        name: 0.0 if parameter.grad is None else parameter.grad.abs().max().item()
        for name, parameter in network.named_parameters()
    }
    # What is left of a gradient that is 0 but for rounding, as of a bias before BatchNorm, is far smaller.
    assert not [name for name, size in reached.items() if size < 1e-7 * max(reached.values())]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_reaches_every_parameter(make, name):
    assert_every_parameter_learns(make(name), size=32)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"relu"}))
def test_the_gradient_reaches_every_parameter_through_any_activation(make, name, activation):
    network = make(name, activation=activation, **small(name))
    assert any(isinstance(layer, type(ACTIVATIONS[activation]())) for layer in network.modules())
    assert not any(isinstance(layer, torch.nn.ReLU) for layer in network.modules())
    assert_every_parameter_learns(network)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_the_gradient_reaches_every_parameter_through_any_normalisation(make, name, norm):
    assert_every_parameter_learns(make(name, norm=norm, **small(name)))


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"fast"}))  # whose whitening stem has no norm
def test_batch_norm_makes_the_layer_before_it_blind_to_its_scale(make, name):
    """`norm=batch` normalises every hidden layer: the logits do not change with the scale of the images."""
    network = make(name, norm="batch", **small(name))
    images = noise(8, size=16)
    torch.testing.assert_close(network(5 * images), network(images), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_starts_at_chance(make, digits, name):
    images, labels = digits
    with torch.no_grad():
        loss = cross_entropy(make(name)(images), labels).item()
    assert loss == pytest.approx(math.log(10), rel=0.15)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_in_training_alone(make, name):
    plain, dropping = (make(name, dropout=dropout, **small(name)) for dropout in (0.0, 0.5))
    dropping.load_state_dict(plain.state_dict())
    images = noise(4, size=16)
    assert torch.equal(dropping.eval()(images), plain.eval()(images))
    dropping.train()
    assert not torch.equal(dropping(images), dropping(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_gives_the_same_logits(make, name):
    first, last = (make(name, channels_last=channels_last).eval() for channels_last in (False, True))
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels(last))
    assert all(weight.is_contiguous() for weight in kernels(first))
    images = noise(2)
    logits = last(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, first(images), rtol=1e-3, atol=1e-5)


def kernels(network):
    return [parameter for parameter in network.parameters() if parameter.ndim == 4]


def test_the_default_network_has_50_to_300_thousand_parameters(compose):
    network = build_network(compose(), 10, (3, 32, 32))
    assert 50_000 <= sum(parameter.numel() for parameter in network.parameters()) <= 300_000


def test_three_layer_is_the_course_s_network(make):
    """conv – relu – 2×2 max pool – affine – relu – affine, written out."""
    network = make("three_layer")
    weights = list(network.parameters())
    assert len(weights) == 6
    images = noise(2)
    kernel, bias, hidden, hidden_bias, head, head_bias = weights
    features = torch.conv2d(images, kernel, bias, padding=kernel.shape[-1] // 2).relu()
    pooled = torch.max_pool2d(features, 2).flatten(1)
    expected = (pooled @ hidden.T + hidden_bias).relu() @ head.T + head_bias
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-6)
