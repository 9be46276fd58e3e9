"""MobileNetV2 for small pictures: Sandler et al., arXiv:1801.04381, with less downsampling.

Inverted residuals: 1x1 expansion, 3x3 depthwise, linear 1x1 projection, a shortcut where shapes
allow. Stages, expansions and the final 1x1 layer are cut down for 28x28 to 64x64 inputs.
"""

import torch
from torch import Tensor, nn

_STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 64, 2, 1))
"""Per stage: expansion, filters, blocks, stride of the first."""


def _conv(channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(filters),
    )


class InvertedResidual(nn.Module):
    """(n, channels, h, w) to (n, filters, h / stride, w / stride)."""

    def __init__(self, channels: int, filters: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [_conv(channels, inner, 1), nn.ReLU6()]
        layers += [_conv(inner, inner, 3, stride, inner), nn.ReLU6(), _conv(inner, filters, 1)]
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return x + result if self.has_shortcut else result


class MobileNetV2(nn.Module):
    """See the module. Input (n, channels, h, w), output logits (n, classes)."""

    def __init__(self, *, width: float = 1.0, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        first = _scaled(16, width)
        layers: list[nn.Module] = [_conv(channels, first, 3, 1), nn.ReLU6()]
        before = first
        for expansion, filters, count, stride in _STAGES:
            for index in range(count):
                after = _scaled(filters, width)
                layers.append(
                    InvertedResidual(before, after, stride if not index else 1, expansion)
                )
                before = after
        last = _scaled(128, width)
        self.features = nn.Sequential(*layers, _conv(before, last, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.features(x)), 1))
        return logits


def _scaled(filters: int, width: float) -> int:
    """A multiple of 8 that is never much below what was asked for (the paper's reference code)."""
    return max(8, int(filters * width + 4) // 8 * 8)
