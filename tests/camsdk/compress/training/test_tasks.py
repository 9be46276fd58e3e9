"""Batches follow from indices and generator; figures are what their names say."""

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from camsdk import assets
from camsdk.compress import nanodet
from camsdk.compress.clips import read_frames
from camsdk.compress.options import (
    ActivationOptions,
    CodeSet,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.training.admm import AdmmMethod
from camsdk.compress.training.tasks import Classification, Detection, Segmentation
from camsdk.compress.training.trainer import train
from camsdk.compress.training.twin import to_torch
from camsdk.errors import InvalidInput


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def pictures(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    return (
        torch.rand(count, 1, 6, 8, generator=generator),
        torch.randint(0, 3, (count,), generator=generator),
    )


def test_augmentation_follows_from_the_generator() -> None:
    images, labels = pictures()
    task = Classification(images, labels, images, labels, shift=2, is_mirrored=True)
    chosen = torch.tensor([3, 1, 4])
    one, two, other = (task.batch(chosen, Generator().manual_seed(s))[0] for s in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    plain, same = task.batch(chosen, None)
    assert torch.equal(plain, images[chosen])
    assert torch.equal(same, labels[chosen])


def test_a_mask_is_mirrored_with_its_picture() -> None:
    images, _ = pictures()
    masks = (images[:, 0] > 0.5).long()
    task = Segmentation(images, masks, images, masks, is_mirrored=True)
    got, labels = task.batch(torch.arange(12), Generator().manual_seed(1))
    assert torch.equal((got[:, 0] > 0.5).long(), labels)
    assert 0 < sum(not torch.equal(a, b) for a, b in zip(got, images, strict=True)) < 12


def test_other_data_has_another_digest() -> None:
    images, labels = pictures()
    first = Classification(images, labels, images, labels)
    changed = images.clone()
    changed[0, 0, 0, 0] += 1
    assert first.digest() == Classification(images, labels, images, labels).digest()
    assert first.digest() != Classification(changed, labels, images, labels).digest()
    assert first.digest() != Classification(images, labels, images, labels, shift=1).digest()


def test_the_metric_is_the_share_of_right_answers_in_evaluation_mode() -> None:
    images = torch.eye(4)[:, :, None, None]
    labels = torch.tensor([0, 1, 2, 0])
    task = Classification(images, labels, images, labels)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9))
    net.train()
    assert task.metric(net) == 0.75
    assert net.training


def test_the_metric_of_a_segmenter_by_hand() -> None:
    answers = torch.tensor([[[0, 0], [1, 1]]])
    images = nn.functional.one_hot(answers, 3).permute(0, 3, 1, 2).float()
    labels = torch.tensor([[[0, 1], [1, 1]]])
    task = Segmentation(images, labels, images, labels)
    assert task.metric(nn.Identity()) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert Segmentation(images, answers, images, answers).metric(nn.Identity()) == 1.0


def test_pictures_without_labels_are_refused() -> None:
    images, labels = pictures()
    with pytest.raises(InvalidInput, match="as many labels"):
        Classification(images, labels[:-1], images, labels)


@pytest.mark.slow
def test_a_detector_of_low_bits_learns_to_agree_with_the_float_one(vtest_path: Path) -> None:
    source = nanodet.import_float(
        assets.pull("nanodet.json"), assets.pull("nanodet.bin"), size=(256, 192)
    )
    model = nanodet.import_onnx(
        assets.pull("nanodet.json"), assets.pull("nanodet.bin"), size=(256, 192)
    )
    teacher, twin = to_torch(model).module, to_torch(model)
    frames = list(read_frames(vtest_path, range(0, 240, 10)))
    tests = list(read_frames(vtest_path, range(400, 700, 50)))
    task = Detection(teacher, frames, tests, source.manifest)
    assert task.metric(twin.module) == 1.0
    method = AdmmMethod(QuantizeOptions(WeightOptions(CodeSet(4)), ActivationOptions(8)))
    # At 1e-4 a dozen steps move no weight to another code; only ranges wander.
    options = TrainOptions(epochs=3, batch_size=4, learning_rate=5e-3)
    done = train(twin.module, task, method, options)
    rounded_alone = _untrained(model, task)
    agreement = task.metric(done.module)
    print(f"AP50 against float: {agreement:.3f} trained, {rounded_alone:.3f} rounded alone")
    assert agreement > rounded_alone + 0.03
    assert agreement > 0.95


def _untrained(model, task: Detection) -> float:
    """The same codes without training."""
    module = to_torch(model).module.eval()
    method = AdmmMethod(QuantizeOptions(WeightOptions(CodeSet(4)), ActivationOptions(8)))
    method.attach(module, task.batch(torch.arange(4), None)[0])
    method.finish()
    return task.metric(module)
