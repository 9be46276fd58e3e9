"""EfficientNet-Lite0 with the names of its published weights.

Tan and Le, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6, as Google's TPU
repository has it ("efficientnet/lite"). TensorFlow pads even inputs of a stride of 2 by one row
less before than after.
"""

import torch
from torch import Tensor, nn

_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
"""Blocks, kernel, stride of the first, expansion, filters."""
SIDE = 224
MEAN, STD = 127.0, 128.0


class _Conv(nn.Module):
    """A convolution without bias, padded as TensorFlow does it; its weight has no inner name."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(filters, channels // groups, kernel, kernel))
        self.stride, self.groups = stride, groups
        total = kernel - stride if stride > 1 else kernel - 1  # sides are even where strides are 2
        self.pads = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, self.pads) if any(self.pads) else x
        return nn.functional.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


def _norm(filters: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(filters, eps=1e-3)


class _Block(nn.Module):
    """Inverted residual."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, filters: int):
        super().__init__()
        inner = channels * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _Conv(channels, inner, 1, 1, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _Conv(inner, inner, kernel, stride, inner), _norm(inner)
        self._project_conv, self._bn2 = _Conv(inner, filters, 1, 1, 1), _norm(filters)
        self.has_shortcut = stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        if hasattr(self, "_expand_conv"):
            inner = nn.functional.relu6(self._bn0(self._expand_conv(x)))
        inner = nn.functional.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return inner + x if self.has_shortcut else inner


class EfficientNetLite0(nn.Module):
    """Input (n, 3, 224, 224), (pixel - 127) / 128 in RGB; output (n, 1000) logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, 2, 1), _norm(32)
        blocks, channels = [], 32
        for count, kernel, stride, expansion, filters in _STAGES:
            for index in range(count):
                blocks.append(_Block(channels, kernel, 1 if index else stride, expansion, filters))
                channels = filters
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(channels, 1280, 1, 1, 1), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))
