"""Random crops and mirror images of a whole batch at once.

A crop is a window into images that were padded once, so a batch is one indexing of a strided view: no
per-image work, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pad_reflect(images: Tensor, padding: int) -> Tensor:
    """Images (uint8, N×C×H×W) with `padding` pixels reflected at every border, by index: exact for bytes.

    Raises:
        ValueError: if `padding` is not smaller than the images.
    """
    height, width = images.shape[-2:]
    if padding >= min(height, width):
        raise ValueError(f"padding {padding} must be smaller than the images' {height}×{width} pixels")

    def reflected(length: int) -> Tensor:
        index = torch.arange(-padding, length + padding, device=images.device).abs()
        return (length - 1) - (length - 1 - index).abs()

    return images[..., reflected(height), :][..., reflected(width)]


class RandomCropFlip:
    """Takes random windows of padded images, half of them mirrored.

    Args:
        images: uint8, N×C×H×W.
        padding: pixels reflected at each border before cropping; 0 for no crops.
        flip: whether to mirror half of the images left to right.
        channels_last: the memory format in which the images are kept and returned.
    """

    def __init__(self, images: Tensor, padding: int, flip: bool, channels_last: bool = False) -> None:
        self.padding, self.flip, self.channels_last = padding, flip, channels_last
        height, width = images.shape[-2:]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        padded = pad_reflect(images, padding).contiguous(memory_format=layout)
        # Every window of every image, without a copy: N×(2p+1)×(2p+1)×C×H×W, or C last.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        self.windows = windows.permute(0, 2, 3, 4, 5, 1) if channels_last else windows.movedim(1, 3)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The vertical and horizontal offsets (int64) and mirrorings (bool) of `count` images."""
        offsets = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        return offsets[0], offsets[1], mirrored if self.flip else torch.zeros(count, dtype=torch.bool)

    def __call__(self, indices: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """The images at `indices` (int64, B), cropped and mirrored as drawn: uint8, B×C×H×W."""
        crops = self.windows[indices, top, left]
        if self.channels_last:
            crops = crops.permute(0, 3, 1, 2)
        return torch.where(mirrored.view(-1, 1, 1, 1), crops.flip(-1), crops) if self.flip else crops
