"""One recipe for every contender: the same pictures in the same order, the same steps, one judge.

Needs torch and numpy alone, so that it runs in the isolated environment of each peer. A contender
only prepares the network and, if it must, acts after each backward pass and each step; the loop,
the optimizer and its schedule are the same for all.
"""

import gzip
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 128
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
WARM_UP = 0.05
PRETRAIN_RATE = 0.1
FINE_TUNE_RATE = 0.02
VALIDATION = 5_000
"""Pictures at the end of the training set that nothing is trained on: methods are tuned there."""


@dataclass(frozen=True)
class Row:
    """What a line of the table asks for.

    Attributes:
        weight_bits, activation_bits: None leaves them in float.
        sparsity: Share of zeros over all layers but the first and the last.
        saves: What sparsity is a share of, "weights" or "macs".
        removed_macs: Share of multiply-accumulates that goes with whole filters.
    """

    name: str
    weight_bits: int | None = None
    activation_bits: int | None = None
    sparsity: float = 0.0
    saves: str = "weights"
    removed_macs: float = 0.0


@dataclass
class Contender:
    """A prepared network and what its method does around a step.

    Attributes:
        module: Trained and judged as it is.
        parameters: Groups for the optimizer; by default ``decayed``.
        loss: Of a batch; by default the cross entropy of the module's logits.
        after_backward, after_step: With the progress from 0 to 1.
        finish: Before the judge looks.
    """

    module: nn.Module
    parameters: list[dict[str, object]] = field(default_factory=list)
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    after_backward: Callable[[float], None] = lambda progress: None
    after_step: Callable[[float], None] = lambda progress: None
    finish: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Pictures:
    """Images (n, 1, 28, 28) float32 standardised, labels (n,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read_pictures(images: Path, labels: Path) -> Pictures:
    """An idx pair of Fashion-MNIST."""
    pixels = gzip.decompress(images.read_bytes())
    magic, count, rows, columns = struct.unpack(">4I", pixels[:16])
    assert magic == 2051, images
    array = np.frombuffer(pixels, np.uint8, offset=16).reshape(count, 1, rows, columns)
    classes = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    tensor = torch.from_numpy(array.astype(np.float32) / 255.0)
    return Pictures((tensor - 0.2860) / 0.3530, torch.from_numpy(classes.astype(np.int64)))


def split(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """To train on, and to tune on."""
    cut = len(pictures) - VALIDATION
    return (
        Pictures(pictures.images[:cut], pictures.labels[:cut]),
        Pictures(pictures.images[cut:], pictures.labels[cut:]),
    )


def batches(pictures: Pictures, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, shuffled, shifted by up to 2 pixels and mirrored: a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    padded = nn.functional.pad(pictures.images, (2, 2, 2, 2), value=float(pictures.images.min()))
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(pictures), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
        images = padded[chosen, :, dy : dy + 28, dx : dx + 28]
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        yield images.contiguous(memory_format=torch.channels_last), pictures.labels[chosen]


def rate(progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine to nothing."""
    if progress < WARM_UP:
        return peak * (0.1 + 0.9 * progress / WARM_UP)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def decayed(module: nn.Module) -> list[dict[str, object]]:
    """Weights with decay; norms, biases, scales and ranges without."""
    plain = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    heavy = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    return [{"params": heavy, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]


def train(
    contender: Contender, pictures: Pictures, *, epochs: float, peak: float, seed: int
) -> int:
    """Trains in place and returns the number of steps."""
    module = contender.module
    steps = round(epochs * (len(pictures) // BATCH))
    groups = contender.parameters or decayed(module)
    optimizer = torch.optim.SGD(groups, lr=peak, momentum=MOMENTUM, nesterov=True)
    module.train()
    for step, (images, labels) in enumerate(batches(pictures, steps, seed)):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate(progress, peak)
        optimizer.zero_grad()
        if contender.loss is None:
            loss = nn.functional.cross_entropy(module(images), labels)
        else:
            loss = contender.loss(images, labels)
        loss.backward()
        contender.after_backward(progress)
        optimizer.step()
        contender.after_step(progress)
    contender.finish()
    return steps


@torch.no_grad()
def accuracy(module: nn.Module, pictures: Pictures) -> float:
    """Share of right answers, in percent."""
    module.eval()
    right = 0
    for start in range(0, len(pictures), 500):
        images = pictures.images[start : start + 500].contiguous(memory_format=torch.channels_last)
        right += int((module(images).argmax(1) == pictures.labels[start : start + 500]).sum())
    return 100.0 * right / len(pictures)


@torch.no_grad()
def multiply_accumulates(module: nn.Module, example: Tensor) -> int:
    """Those of convolutions and linear layers whose weight is not zero, for one picture."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        places = output[0].numel() // output.shape[1]
        total += places * int(layer.weight.detach().count_nonzero())

    handles = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    was_training = module.training
    module.eval()(example[:1])
    module.train(was_training)
    for handle in handles:
        handle.remove()
    return total
