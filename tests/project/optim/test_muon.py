import copy
import io

import pytest
import timm.optim
import torch
from torch import nn

from project.optim.muon import muon, orthogonalized


def network_with_gradients(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 2)
    )
    network(torch.randn(4, 3, 6, 6)).square().sum().backward()
    return network


def values(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_matrices_taken_together_and_one_by_one_have_the_same_directions():
    torch.manual_seed(0)
    updates = [torch.randn(shape) for shape in [(8, 3, 3, 3), (4, 8, 3, 3), (20, 5), (2, 16)]]
    updates[1] = updates[1].to(memory_format=torch.channels_last)
    alone = [each for update in updates for each in orthogonalized([update], 5)]
    for one, among in zip(alone, orthogonalized(updates, 5), strict=True):
        assert one.shape == among.shape
        torch.testing.assert_close(one, among, rtol=0, atol=0.03)  # in 16 bits
        singular = torch.linalg.svdvals(one.flatten(1).float())
        assert 0.6 < singular.min() <= singular.max() < 1.3


def test_a_copy_and_one_that_is_loaded_go_on_as_the_optimizer_itself():
    options = {"lr": 0.02, "weight_decay": 0.1}
    network = network_with_gradients()
    optimizer = muon(network, **options)
    optimizer.step()
    its_copy, copied = copy.deepcopy((network, optimizer))
    other = network_with_gradients(1)
    other.load_state_dict(network.state_dict())
    loaded = muon(other, **options)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        theirs.grad = mine.grad.clone()
    for mine, theirs in zip(network.parameters(), its_copy.parameters(), strict=True):
        theirs.grad = mine.grad.clone()
    for each in (optimizer, copied, loaded):
        for group in each.param_groups:
            group["lr"] /= 2  # as a schedule does
        each.step()
    for of_copy in (its_copy, other):
        for mine, theirs in zip(values(network), values(of_copy), strict=True):
            assert torch.equal(mine, theirs)


def test_steps_are_those_of_timm_of_filters_to_the_bit():
    network, other = network_with_gradients(), network_with_gradients()
    options = {"lr": 0.02, "momentum": 0.6, "ns_steps": 3, "weight_decay": 0.1}
    ours = muon(network, **options)
    rest = [other[1].weight, other[1].bias, other[2].bias, other[4].bias, other[4].weight]
    groups = [{"params": [other[0].weight, other[2].weight]}]
    groups.append({"params": rest, "use_fallback": True, "weight_decay": 0.0, "nesterov": False})
    theirs = timm.optim.Muon(groups, nesterov=True, adjust_lr_fn=None, **options)
    for _ in range(3):
        ours.step()
        theirs.step()
    for mine, its in zip(values(network), values(other), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
    assert torch.equal(network[0].weight, other[0].weight)
    assert torch.equal(network[2].weight, other[2].weight)


def test_normalized_filters_have_a_norm_of_1_before_a_step():
    network = network_with_gradients()
    muon(network, lr=1e-9, normalize=True).step()
    for layer in (network[0], network[2]):
        assert layer.weight.square().sum().item() == pytest.approx(len(layer.weight), rel=1e-4)
