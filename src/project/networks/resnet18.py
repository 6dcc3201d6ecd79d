"""torchvision's ResNet-18 with a stem for small images."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from project.networks.initialization import kaiming
from project.networks.layers import ACTIVATIONS, norm_layer


class ResNet18(nn.Sequential):
    """ResNet-18 (He et al., 2016) whose stem is one 3×3 convolution without stride or pooling."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        initialization: Callable[..., None] = kaiming,
    ) -> None:
        norms = partial(norm_layer, norm)
        resnet = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes, norm_layer=norms)
        resnet.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        for block in resnet.modules():
            if isinstance(block, (BasicBlock, ResNet)):
                block.relu = ACTIVATIONS[activation]()
        head = resnet.fc
        resnet.fc = nn.Sequential(nn.Dropout(dropout), head)
        super().__init__(OrderedDict(resnet=resnet))
        initialization(self, head=head, activation=activation)
