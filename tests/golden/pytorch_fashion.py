"""Trains ``tests/golden/pytorch_fashion.*`` with PyTorch 2.13, in half a minute:

    python tests/golden/pytorch_fashion.py tests/golden

The file is what ``torch.export.save`` writes, the golden outputs what PyTorch computes for the
first 32 pictures of Fashion-MNIST's test set, as bytes from 0 to 255.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from camsdk import assets


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(functional.relu(self.squeeze(means))))


class Net(nn.Module):
    """28x28 grey pictures of bytes to ten classes; two scales are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()
        )
        self.depth = nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.point, self.gate = nn.Conv2d(16, 32, 1), Gate(32)
        self.join, self.act = nn.Conv2d(48, 32, 3, 2, 1), nn.PReLU(32)
        self.head = nn.Linear(32 * 4 * 4, 10)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.stem(image / 255 - 0.5)
        coarse = functional.leaky_relu(self.norm(self.depth(fine)), 0.1)
        coarse = self.gate(functional.silu(self.point(coarse)))
        x = torch.cat([fine, functional.interpolate(coarse, scale_factor=2.0)], dim=1)
        x = functional.max_pool2d(self.act(self.join(x)), 3, 2, 1)
        return self.head(functional.dropout(x.flatten(1), 0.2, self.training))


def idx(name: str, offset: int) -> Tensor:
    with gzip.open(assets.pull(name)) as file:
        return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=offset).copy())


def train(net: Net, images: Tensor, labels: Tensor, epochs: int = 3) -> None:
    batch, count = 100, 15_000
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * count // batch)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[:count].view(-1, batch):
            loss = functional.cross_entropy(net(images[rows].float()), labels[rows].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


if __name__ == "__main__":
    torch.manual_seed(1)
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    images = idx("fashion-mnist-train-images.gz", 16).view(-1, 1, 28, 28)
    net = Net()
    train(net, images, idx("fashion-mnist-train-labels.gz", 8))
    data = idx("fashion-mnist-t10k-images.gz", 16).view(-1, 1, 28, 28)
    labels = idx("fashion-mnist-t10k-labels.gz", 8)
    net.eval()
    with torch.no_grad():
        found = net(data.float())
    print("accuracy", float((found.argmax(1) == labels).float().mean()))
    dynamic = {0: torch.export.Dim("batch", min=1, max=64)}
    example = (data[:2].float(),)
    torch.export.save(
        torch.export.export(net, example, dynamic_shapes=(dynamic,)),
        target / "pytorch_fashion.pt2",
    )
    np.savez_compressed(
        target / "pytorch_fashion.npz", data=data[:32].numpy(), pytorch=found[:32].numpy()
    )
