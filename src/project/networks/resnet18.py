"""torchvision's ResNet-18 with a stem for small images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from project.networks.initialization import kaiming
from project.networks.layers import ACTIVATIONS, norm_layer


class ResNet18(nn.Module):
    """ResNet-18 (He et al., 2016) whose stem is one 3×3 convolution without stride or pooling.

    Args (further ones: those of every network, see `project.networks`):
        image_size: pixels a side; any size will do.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        initialization: Callable[..., None] = kaiming,
    ) -> None:
        super().__init__()
        self.resnet = ResNet(
            BasicBlock, [2, 2, 2, 2], num_classes=num_classes, norm_layer=partial(norm_layer, norm)
        )
        self.resnet.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.resnet.maxpool = nn.Identity()
        for block in self.resnet.modules():
            if isinstance(block, (BasicBlock, ResNet)):
                block.relu = ACTIVATIONS[activation]()
        head = self.resnet.fc
        self.resnet.fc = nn.Sequential(nn.Dropout(dropout), head)
        initialization(self, head=head, activation=activation)

    def forward(self, images: Tensor) -> Tensor:
        """Images, float N×C×H×W, to logits, N×`num_classes`."""
        return self.resnet(images)
