"""What is quantized without training, and what it is judged on.

- ``photos``: EfficientNet-Lite0 with its published ImageNet weights. Five views each of 8 photos to
  calibrate on; five each of 12 others and their mirror images to judge on, by fidelity to the float
  network, since 12 photos say nothing of accuracy.
- ``resnet20``, ``mobilenetv2-w50``: trained on Fashion-MNIST by ``pretrain``. 128 training pictures
  to calibrate on; judged by right answers on the test set.
"""

from pathlib import Path

import numpy as np
import onnx
import torch

from camsdk import assets
from camsdk.compress.graph.optimise import optimise
from camsdk.compress.importers.pytorch import import_pytorch
from peers import efficientnet_lite, nets, photos
from peers.efficientnet_lite import EfficientNetLite0
from peers.pretrain import pictures
from peers.ptq import LARGEST_PIXEL, by_onnxruntime
from peers.recipe import split

PHOTOS = "photos"
CALIBRATION = 128
PREPROCESSING = {PHOTOS: (efficientnet_lite.MEAN, efficientnet_lite.STD)}
FASHION = (0.2860 * LARGEST_PIXEL, 0.3530 * LARGEST_PIXEL)
EDGES = {PHOTOS: ("_conv_stem", "_fc"), **nets.EDGES}


def make(name: str, seed: int, state: Path, folder: Path) -> None:
    """Writes model.onnx, calibration, judged, labels (if there are any) and float logits.

    Args:
        state: Of the network, by torch.
        folder: Where to; complete once it has ``float.npy``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = EfficientNetLite0() if name == PHOTOS else nets.NETS[name]()
    module.load_state_dict(torch.load(state, weights_only=True))
    data = _photos() if name == PHOTOS else _fashion(seed)
    for key, values in data.items():
        np.save(folder / f"{key}.npy", values)
    shape = (1, *data["judged"].shape[1:])
    model = optimise(import_pytorch(module, {"x": shape}), keep_batchnorm=True).model
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "float.npy", by_onnxruntime(model)(data["judged"]))


def _photos() -> dict[str, np.ndarray]:
    mean, std = PREPROCESSING[PHOTOS]
    views = [
        photos.views(assets.pull(f"photo-{at:02}.jpg"), efficientnet_lite.SIDE, mean, std)
        for at in range(photos.COUNT)
    ]
    judged = np.concatenate(
        [views[at] for at in range(photos.COUNT) if at not in photos.CALIBRATION]
    )
    return {
        "calibration": np.concatenate([views[at] for at in photos.CALIBRATION]),
        "judged": np.concatenate([judged, judged[..., ::-1]]),
    }


def _fashion(seed: int) -> dict[str, np.ndarray]:
    trained, _ = split(pictures("train"))
    test = pictures("t10k")
    chosen = np.random.default_rng(seed).choice(len(trained), CALIBRATION, replace=False)
    return {
        "calibration": trained.images.numpy()[chosen],
        "judged": test.images.numpy(),
        "labels": test.labels.numpy(),
    }
