"""Moving people are segmented by a network that is trained and compressed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from camsdk.compress.clips import read_frames
from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    DistillOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.training.admm import AdmmMethod
from camsdk.compress.training.segmentation import SmallSegmenter, moving_masks
from camsdk.compress.training.tasks import Segmentation
from camsdk.compress.training.trainer import train
from camsdk.errors import InvalidInput
from camsdk.vision.frames import Frame


def frame(index: int, left: int | None) -> Frame:
    """Grey, with a bright block of 16 x 32 pixels from ``left`` on."""
    y = np.full((64, 96), 100, np.uint8)
    if left is not None:
        y[16:48, left : left + 16] = 200
    grey = np.full((32, 48), 128, np.uint8)
    return Frame(index, float(index), y, grey, grey, False, False)


def test_what_moves_is_masked_where_it_is() -> None:
    frames = [frame(0, None), frame(1, 8), frame(2, 40), frame(3, 72), frame(4, None)]
    pictures, masks = moving_masks(frames, (48, 32))
    assert pictures.shape == (5, 3, 32, 48)
    assert masks.shape == (5, 32, 48)
    for index, left in ((1, 4), (2, 20), (3, 36)):
        wanted = torch.zeros(32, 48, dtype=torch.int64)
        wanted[8:24, left : left + 8] = 1
        assert int((masks[index] != wanted).sum()) <= 4  # opening rounds the corners
    assert int(masks[0].sum()) == int(masks[4].sum()) == 0


def test_too_few_frames_show_no_background() -> None:
    with pytest.raises(InvalidInput, match="background"):
        moving_masks([frame(0, None)], (48, 32))


@pytest.mark.slow
def test_a_segmenter_of_four_bits_keeps_its_mean_iou(vtest_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, masks = moving_masks(read_frames(vtest_path, range(0, 790, 5)), (128, 96))
    train_count = len(images) * 2 // 3
    task = Segmentation(
        images[:train_count], masks[:train_count], images[train_count:], masks[train_count:],
        class_weights=torch.tensor([1.0, 4.0]), is_mirrored=True,
    )  # fmt: skip
    net = SmallSegmenter(width=8)
    untrained = task.metric(net)
    train(net, task, None, TrainOptions(epochs=12, batch_size=8, learning_rate=0.1))
    before = task.metric(net)
    method = AdmmMethod(QuantizeOptions(WeightOptions(CodeSet(4)), ActivationOptions(8)))
    train(net, task, method, TrainOptions(epochs=4, batch_size=8, learning_rate=0.02),
          distill=DistillOptions(logits=0.5, temperature=2.0))  # fmt: skip
    after = task.metric(net)
    print(f"mean IoU: {untrained:.3f} untrained, {before:.3f} float, {after:.3f} W4A8")
    coded = method.coded_weights()
    assert all(len(np.unique(of.codes)) <= 2**of.code_set.bit_width for of in coded.values())
    assert {of.code_set.bit_width for of in coded.values()} >= {4}
    assert before > 0.7 > untrained
    assert after > before - 0.02
