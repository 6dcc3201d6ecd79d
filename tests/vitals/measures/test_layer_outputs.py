"""What is taken as the output of a layer, in which order, and under which name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.measures.layer_outputs import LayerOutput, layer_outputs
from vitals.measures.layer_probe import Probe, probe


def run(model: nn.Module, inputs: Tensor) -> tuple[list[LayerOutput], Tensor]:
    with layer_outputs(model) as layers:
        outputs = model(inputs)
    return layers, outputs


class Backwards(nn.Module):
    """Registered in one order, executed in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.middle(torch.tanh(self.first(x)))))


def test_the_order_is_that_of_execution_and_functions_count_as_activations() -> None:
    torch.manual_seed(0)
    model = Backwards()
    x = torch.randn(5, 3)
    layers, outputs = run(model, x)
    assert [(layer.name, layer.kind) for layer in layers] == [
        ("first", "tanh"),
        ("middle", "relu"),
        ("last", "none"),
    ]
    first = torch.tanh(model.first(x))
    for layer, expected in zip(layers, [first, F.relu(model.middle(first)), outputs], strict=True):
        assert torch.equal(layer.values, expected)
        assert layer.channel_dim == 1


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "module": (nn.ReLU(), "relu"),
    "in place": (nn.ReLU(inplace=True), "relu"),
    "function": (F.relu, "relu"),
    "function in place": (lambda x: F.relu(x, inplace=True), "relu"),
    "method": (lambda x: x.relu(), "relu"),
    "method in place": (lambda x: x.relu_(), "relu"),
    "clamp": (lambda x: x.clamp(min=0), "relu"),
    "relu6": (nn.ReLU6(), "relu"),
    "hardtanh": (nn.Hardtanh(), "tanh"),
    "tanh": (nn.Tanh(), "tanh"),
    "tanh method": (lambda x: x.tanh(), "tanh"),
    "sigmoid": (nn.Sigmoid(), "sigmoid"),
    "sigmoid function": (F.sigmoid, "sigmoid"),
    "hardsigmoid": (nn.Hardsigmoid(), "other"),
    "clamp elsewhere": (lambda x: x.clamp(-1.0).relu(), "relu"),
    "gelu": (nn.GELU(), "other"),
    "silu": (F.silu, "other"),
    "silu in place": (nn.SiLU(inplace=True), "other"),
    "leaky": (nn.LeakyReLU(0.1), "other"),
    "elu": (nn.ELU(), "other"),
    "prelu": (nn.PReLU(), "other"),
    "hardswish": (nn.Hardswish(inplace=True), "other"),
    "mish": (nn.Mish(), "other"),
    "softplus": (nn.Softplus(), "other"),
}


class Then(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm, self.activation = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.layer(x)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_behind_batchnorm_the_activation_is_taken(name: str) -> None:
    activation, kind = ACTIVATIONS[name]
    model = Then(activation)
    x = torch.randn(4, 2, 6, 6)
    [layer], outputs = run(model, x)
    assert torch.equal(layer.values, outputs)
    assert (layer.name, layer.kind, layer.channel_dim) == ("layer", kind, 1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.two(self.relu(self.one(x))))
        out += x
        return self.relu(out)


def test_behind_a_residual_sum_the_activation_is_taken() -> None:
    layers, outputs = run(Block(), torch.randn(3, 2, 5, 5))
    assert [(layer.name, layer.kind) for layer in layers] == [("one", "relu"), ("two", "relu")]
    assert torch.equal(layers[1].values, outputs)
    assert (layers[0].values >= 0).all()


def test_a_layer_called_twice_has_two_entries() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Tanh())
    layers, _ = run(model, torch.randn(2, 3))
    assert [(each.name, each.kind) for each in layers] == [("0", "relu"), ("0:2", "tanh")]


def test_only_the_first_activation_behind_a_layer_counts() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sigmoid())
    [layer], _ = run(model, torch.randn(2, 3))
    assert layer.kind == "relu"


def test_a_function_of_the_weights_or_of_a_target_is_no_activation() -> None:
    linear = nn.Linear(3, 3)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            torch.relu(torch.randn(4, 3))  # other samples
            torch.tanh(torch.randn(2, 3))  # not of this graph
            return y

    [layer], outputs = run(Odd(), torch.randn(2, 3))
    assert layer.kind == "none"
    assert layer.values is outputs


def test_features_of_tokens_lie_in_the_last_dimension() -> None:
    [layer], _ = run(nn.Sequential(nn.Linear(4, 6), nn.GELU()), torch.randn(2, 7, 4))
    assert layer.values.shape == (2, 7, 6)
    assert layer.channel_dim == 2


def test_no_hook_stays_behind_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes"), layer_outputs(model):
        model(torch.randn(2, 4))
    assert not model[0]._forward_hooks


class Loops(nn.Module):
    """A layer that is called twice, one that is never reached, one that is frozen, and an in-place sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.twice, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.twice(self.frozen(x)))
        z = self.twice(y)
        z += y
        return self.head(z)


def probed(model: nn.Module, x: Tensor, y: Tensor) -> Probe:
    parameters = dict(model.named_parameters())
    held = set(map(id, parameters.values()))
    return probe(model, lambda: [(F.cross_entropy(model(x), y), held)], parameters)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Loops, (6, 4)),
        (Backwards, (6, 3)),
        (lambda: nn.Sequential(Block(), nn.Flatten(), nn.Linear(50, 3)), (6, 2, 5, 5)),
    ],
)
def test_gradients_of_the_probe_are_those_of_backward_and_grad_stays(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = make()
    x, y = torch.randn(shape), torch.randint(0, 2, (6,))
    twin = copy.deepcopy(model)
    marks = [torch.full_like(parameter, 7.0) for parameter in model.parameters()]
    for parameter, mark in zip(model.parameters(), marks, strict=True):
        parameter.grad = mark.clone() if parameter.requires_grad else None
    found = probed(model, x, y)
    loss = F.cross_entropy(twin(x), y)
    loss.backward()
    expected = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert found.gradients.keys() == expected.keys()
    assert all(torch.equal(found.gradients[name], expected[name]) for name in expected)
    assert all(
        torch.equal(parameter.grad, mark)
        for parameter, mark in zip(model.parameters(), marks, strict=True)
        if parameter.grad is not None
    )


def test_gradients_of_layers_are_those_with_respect_to_their_values() -> None:
    torch.manual_seed(0)
    model = Backwards()
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    found = probed(model, x, y)
    hidden = torch.tanh(model.first(x)).detach().requires_grad_()
    F.cross_entropy(model.last(F.relu(model.middle(hidden))), y).backward()
    assert found.layer_gradients[0] is not None
    assert hidden.grad is not None
    assert torch.allclose(found.layer_gradients[0], hidden.grad)


def test_of_several_losses_each_gives_the_gradient_of_what_it_trains() -> None:
    torch.manual_seed(0)
    maker, judge = nn.Linear(3, 4), nn.Linear(4, 1)
    model, z, x = nn.Sequential(maker, judge), torch.randn(6, 3), torch.randn(6, 4)
    parameters = dict(model.named_parameters())

    def losses() -> tuple[Tensor, Tensor]:
        made = maker(z)
        return judge(made).mean(), judge(made.detach()).square().mean() - judge(x).mean()

    held = [set(map(id, part.parameters())) for part in model]
    found = probe(model, lambda: list(zip(losses(), held, strict=True)), parameters)
    for part, prefix, loss in zip(model, "01", losses(), strict=True):
        wanted = torch.autograd.grad(loss, list(part.parameters()))
        given = [gradient for name, gradient in found.gradients.items() if name.startswith(prefix)]
        assert all(map(torch.equal, given, wanted))
    assert [gradient is None for gradient in found.layer_gradients] == [False] * 4


def test_calls_under_no_grad_are_left_out_where_a_layer_has_others() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)

    def losses() -> list[tuple[Tensor, set[int]]]:
        with torch.no_grad():
            target = model(x)
        loss = (model(x) + target).square().mean() + model[2](model[0](x).relu()).mean()
        return [(loss, {id(p) for p in model.parameters()})]

    found = probe(model, losses, {})
    assert [layer.name for layer in found.layers] == ["0", "2", "0:2", "2:2"]
    assert all(gradient is not None and gradient.any() for gradient in found.layer_gradients)


def test_a_frozen_layer_has_no_gradient_and_a_constant_loss_none_at_all() -> None:
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    model = Loops()
    found = probed(model, x, y)
    assert [layer.name for layer in found.layers] == ["frozen", "twice", "twice:2", "head"]
    assert [gradient is None for gradient in found.layer_gradients] == [True, False, False, False]
    parameters = dict(model.named_parameters())
    constant = set(map(id, parameters.values()))
    empty = probe(model, lambda: [(model(x).detach().sum(), constant)], parameters)
    assert empty.gradients == {}
    assert empty.layer_gradients == [None] * 4
