"""The float networks that all contenders start from: ``pretrain.py NET SEED EPOCHS OUT.pt``."""

import sys
import time
from pathlib import Path

import torch

from camsdk import assets
from peers.nets import make
from peers.recipe import PRETRAIN_RATE, Contender, accuracy, read_pictures, split, train


def pictures(part: str):
    """``train`` or ``t10k``."""
    return read_pictures(
        assets.pull(f"fashion-mnist-{part}-images.gz"),
        assets.pull(f"fashion-mnist-{part}-labels.gz"),
    )


def main() -> None:
    net, seed, epochs, out = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    module = make(net)
    trained, held = split(pictures("train"))
    start = time.process_time()
    train(Contender(module), trained, epochs=epochs, peak=PRETRAIN_RATE, seed=seed)
    seconds = time.process_time() - start
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), out.with_suffix(".part"))
    out.with_suffix(".part").rename(out)
    print(
        f"{net} seed {seed}: {accuracy(module, held):.2f}% held out, "
        f"{accuracy(module, pictures('t10k')):.2f}% test, {seconds:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
