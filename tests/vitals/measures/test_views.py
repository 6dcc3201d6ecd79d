"""Test-time augmentation of one image of three rows and four columns, by a network that squares one pixel."""

from __future__ import annotations

import torch

from vitals.measures.views import flipped, least_sure, shifted, six_views

IMAGES = torch.arange(12.0).view(1, 1, 3, 4)


def network(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0, 1, :1] ** 2


def test_the_views_of_an_image_are_its_mirror_and_its_moves_by_a_pixel():
    assert flipped(network, IMAGES).item() == (4**2 + 7**2) / 2
    # Moved up and left the pixel is 9, mirrored then the 10 that is reflected; moved down and right 1 and 2.
    assert shifted(network, IMAGES).item() == ((9**2 + 10**2) / 2 + (1**2 + 2**2) / 2) / 2
    assert six_views(network, IMAGES).item() == (32.5 + 46.5) / 2


def test_a_network_is_least_sure_where_its_two_largest_logits_are_closest():
    logits = torch.tensor([[3.0, 0.0, -1.0], [1.0, 0.9, -9.0], [0.0, 5.0, 4.5], [-8.0, 9.0, 8.8]])
    assert least_sure(logits).tolist() == [False, True, False, False]
