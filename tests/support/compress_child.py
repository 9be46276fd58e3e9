"""A small compression with training, in a process of its own, to be killed.

python compress_child.py CLIP WORK: prints ``training`` in the middle of it, then waits.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from camsdk.compress.clips import split_clip
from camsdk.compress.compressing import Compressed, compress
from camsdk.compress.footage import open_footage
from camsdk.compress.options import (
    CodeSet,
    CompressOptions,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.steps import OnProgress
from support.small_detector import small_detector

OPTIONS = CompressOptions(
    QuantizeOptions(WeightOptions(CodeSet(3))),
    PruneOptions(0.5),
    train=TrainOptions(epochs=12, batch_size=2, learning_rate=0.01, checkpoint_every_s=0.0),
)


def run(
    clip: Path,
    work: Path | None,
    options: CompressOptions = OPTIONS,
    on_progress: OnProgress | None = None,
) -> Compressed:
    torch.set_num_threads(1)
    footage = open_footage(clip)
    split = split_clip(len(footage), calibration=4, evaluation=4)
    return compress(
        small_detector(), footage, options, split=split, work=work, on_progress=on_progress
    )


def stop_in_training(work: Path) -> OnProgress:
    """Says so and waits to be killed, a dozen steps after the first checkpoint."""
    steps: list[int] = []

    def tell(done: int, total: int) -> None:
        if list(work.glob("*.camtrain")):
            steps.append(done)
        if len(steps) == 12:
            print("training", flush=True)
            sys.stdin.read()

    return tell


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    run(Path(sys.argv[1]), folder, on_progress=stop_in_training(folder))
