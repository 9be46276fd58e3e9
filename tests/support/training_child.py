"""A small training in a process of its own, to be killed: python training_child.py CHECKPOINT.

Prints ``step N`` after every step and the digest of the final weights at the end.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

from camsdk.compress.options import DistillOptions, TrainOptions
from camsdk.compress.training.checkpoint import state_digest
from camsdk.compress.training.optimizers import Optimizer
from camsdk.compress.training.tasks import Classification
from camsdk.compress.training.trainer import Trained, train
from support.rounding import Rounding

OPTIONS = TrainOptions(epochs=4, batch_size=16, checkpoint_every_s=0.0)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


def task(examples: int = 100, seed: int = 1) -> Classification:
    """Which quarter of the picture is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (examples,), generator=generator)
    images = torch.randn(examples, 1, 12, 12, generator=generator) * 0.3
    for index, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        images[index, 0, row * 6 : row * 6 + 6, column * 6 : column * 6 + 6] += 1.0
    return Classification(images, labels, images[:40], labels[:40], shift=1)


def run(
    checkpoint: Path | None,
    options: TrainOptions = OPTIONS,
    on_progress=None,
    optimizer: Optimizer = "adam",
) -> Trained:
    torch.set_num_threads(1)
    return train(
        network(), task(), Rounding(4), options,
        distill=DistillOptions(logits=0.5, features=0.1),
        optimizer=optimizer, checkpoint=checkpoint, on_progress=on_progress,
    )  # fmt: skip


if __name__ == "__main__":
    done = run(Path(sys.argv[1]), on_progress=lambda p: print("step", p.step, flush=True))
    print(state_digest(done.module.state_dict()), flush=True)
