"""The networks of the table, by name."""

from torch import nn

from camsdk.zoo.mobilenetv2 import MobileNetV2
from camsdk.zoo.resnet import resnet18, resnet20

NETS = {
    "resnet20": lambda: resnet20(),
    "resnet20-w8": lambda: resnet20(width=8),
    "resnet18-w16": lambda: resnet18(width=16),
    "mobilenetv2-w50": lambda: MobileNetV2(width=0.5),
}
EDGES = {
    "resnet20": ("stem.0", "classifier"),
    "resnet20-w8": ("stem.0", "classifier"),
    "resnet18-w16": ("stem.0", "classifier"),
    "mobilenetv2-w50": ("features.0.0", "classifier"),
}
"""First and last layer: 8 bits and dense in every method, as all peers do it."""


def make(name: str) -> nn.Module:
    """With its initial weights, channels last."""
    import torch

    module: nn.Module = NETS[name]()
    return module.to(memory_format=torch.channels_last)
