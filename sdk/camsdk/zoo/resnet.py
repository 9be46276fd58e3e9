"""ResNet for small pictures: He et al., "Deep Residual Learning", arXiv:1512.03385, section 4.2.

Depth 6n + 2: a 3x3 stem, three stages of n blocks with widths w, 2w, 4w at halving resolution, the
mean, one linear layer. ResNet-18 has the same stem here and four stages, section 4.1. Shortcuts
that change shape are 1x1 convolutions (option B): the identity with zero padding of option A is no
operator that a quantizer or an FPGA compiler knows.
"""

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. (n, c, h, w) to (n, filters, h / stride, w / stride)."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.norm1(self.conv1(x)))
        result: Tensor = self.relu2(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return result


class ResNet(nn.Module):
    """See the module. Input (n, channels, h, w), output logits (n, classes)."""

    def __init__(
        self, depth: int, *, stages: int = 3, width: int = 16, channels: int = 1, classes: int = 10
    ) -> None:
        super().__init__()
        count = (depth - 2) // (2 * stages)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        for stage in range(stages):
            filters = width << stage
            for index in range(count):
                before = width if stage == 0 else filters >> (index == 0)
                blocks.append(BasicBlock(before, filters, 2 if stage and index == 0 else 1))
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(filters, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))
        return logits


def resnet20(*, width: int = 16, channels: int = 1, classes: int = 10) -> ResNet:
    """270k parameters and 31 M multiply-accumulates at width 16 and 28 x 28."""
    return ResNet(20, width=width, channels=channels, classes=classes)


def resnet18(*, width: int = 16, channels: int = 1, classes: int = 10) -> ResNet:
    """700k parameters and 29 M multiply-accumulates at width 16 and 28 x 28."""
    return ResNet(18, stages=4, width=width, channels=channels, classes=classes)
