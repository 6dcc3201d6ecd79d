"""What validation would be, had it been prepared as the training was."""

import torch

from vitals.measures.other_preparations import other_preparations

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GREY = "one value for all channels, as in training"


def test_grey_images_are_tried_where_the_training_has_them_and_validation_has_not() -> None:
    grey = IMAGES.mean(1, keepdim=True).expand(-1, 3, -1, -1) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    tried = other_preparations(grey, IMAGES)[GREY](IMAGES)
    assert tried.shape == IMAGES.shape
    assert torch.allclose(tried.std((0, 2, 3)) / tried.std((0, 2, 3))[0], torch.tensor([1.0, 2.0, 3.0]))
    assert GREY not in other_preparations(IMAGES, IMAGES)
    assert GREY not in other_preparations(grey, grey)
    scans = IMAGES[:, :1].expand(-1, 3, -1, -1)
    assert GREY not in other_preparations(scans, torch.cat([scans[:60], IMAGES[60:]]))


def test_a_negative_of_a_negative_is_the_image() -> None:
    negatives = 0.3 - IMAGES
    assert torch.allclose(
        other_preparations(IMAGES, negatives)["bright and dark exchanged"](negatives).mean((0, 2, 3)),
        negatives.mean((0, 2, 3)),
        atol=1e-5,
    )
    made = other_preparations(IMAGES, negatives)["bright and dark exchanged"](negatives)
    assert torch.allclose(made - made.mean(), IMAGES - IMAGES.mean(), atol=0.2)
