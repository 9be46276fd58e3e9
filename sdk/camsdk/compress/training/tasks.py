"""What a network is trained for: examples, a loss, and a figure that says how good it is.

Invariant: a batch follows from the indices and the generator alone, so that a training that is
resumed sees what it would have seen.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from camsdk.artifact.manifest import Manifest
from camsdk.artifact.preprocess import make_input
from camsdk.compress.class_agreement import mean_iou
from camsdk.compress.evaluate import (
    REFERENCE_SCORE,
    average_precision,
    ranked_boxes,
)
from camsdk.compress.training.distill import imitation_loss, logit_loss
from camsdk.compress.training.variation import Variation, mirrored
from camsdk.errors import InvalidInput
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections

Batch = tuple[Tensor, ...]
"""The network's inputs, then whatever the loss compares its outputs with."""

CLASS_TEMPERATURE: Final = 2.0
"""Of the classes that an imitation compares; what is far from the best class counts as well."""

_CHUNK: Final = 256


class Task(Protocol):
    """Examples and what is wanted of them."""

    def __len__(self) -> int:
        """Number of examples to train on."""

    def digest(self) -> str:
        """sha256 of the examples, to tell other data from the same."""

    def batch(self, indices: Tensor, generator: Generator | None) -> Batch:
        """Chosen examples.

        Args:
            indices: int64 (n,).
            generator: Of all that is random in them; None for examples as they are.
        """

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Shape (), of the network's outputs for ``batch[0]``."""

    def metric(self, module: nn.Module) -> float:
        """0 to 1, better when higher, on examples that nothing is trained on."""


class Classification:
    """Pictures with one class each; cross entropy, and the share of right answers.

    Args:
        images: float32 (n, c, h, w).
        labels: int64 (n,).
        test_images, test_labels: Not trained on.
        shift: Pixels that a picture is moved by at most, with the lowest value around it.
        is_mirrored: Whether every second picture is mirrored, at random.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        *,
        shift: int = 0,
        is_mirrored: bool = False,
    ) -> None:
        _check_pairs(images, labels)
        _check_pairs(test_images, test_labels)
        self._images, self._labels = images, labels
        self._test = (test_images, test_labels)
        self._shift, self._is_mirrored = shift, is_mirrored
        self._padded = images
        if shift:
            self._padded = functional.pad(images, (shift,) * 4, value=float(images.min()))

    def __len__(self) -> int:
        return len(self._labels)

    def digest(self) -> str:
        """Of pictures, labels and augmentation."""
        return _digest(self._images, self._labels, self._shift, self._is_mirrored)

    def batch(self, indices: Tensor, generator: Generator | None) -> Batch:
        """Pictures and labels."""
        images = self._images[indices]
        if generator is not None and self._shift:
            height, width = images.shape[2:]
            down, right = torch.randint(0, 2 * self._shift + 1, (2,), generator=generator).tolist()
            images = self._padded[indices, :, down : down + height, right : right + width]
        if generator is not None and self._is_mirrored:
            images = mirrored(images, generator)
        return images, self._labels[indices]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross entropy of logits (n, classes)."""
        return functional.cross_entropy(outputs, batch[1])

    def metric(self, module: nn.Module) -> float:
        """Share of right answers."""
        images, labels = self._test
        answers = torch.cat([outputs.argmax(1) for outputs in _answers(module, images)])
        return float((answers == labels).double().mean())


class Segmentation:
    """Pictures with a class for every pixel; cross entropy, and the mean IoU over the classes.

    Args:
        images: float32 (n, c, h, w).
        labels: int64 (n, h, w).
        test_images, test_labels: Not trained on.
        class_weights: Of each class in the loss, float32 (classes,), where some are rare.
        is_mirrored: Whether every second picture is mirrored, at random.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        *,
        class_weights: Tensor | None = None,
        is_mirrored: bool = False,
    ) -> None:
        _check_pairs(images, labels)
        _check_pairs(test_images, test_labels)
        self._images, self._labels = images, labels
        self._test = (test_images, test_labels)
        self._class_weights, self._is_mirrored = class_weights, is_mirrored

    def __len__(self) -> int:
        return len(self._labels)

    def digest(self) -> str:
        """Of pictures, labels and augmentation."""
        return _digest(self._images, self._labels, self._class_weights, self._is_mirrored)

    def batch(self, indices: Tensor, generator: Generator | None) -> Batch:
        """Pictures and their labels, mirrored together."""
        images, labels = self._images[indices], self._labels[indices]
        if generator is not None and self._is_mirrored:
            is_turned = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(is_turned[:, None, None, None], images.flip(3), images)
            labels = torch.where(is_turned[:, None, None], labels.flip(2), labels)
        return images, labels

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Cross entropy of logits (n, classes, h, w)."""
        return functional.cross_entropy(outputs, batch[1], self._class_weights)

    def metric(self, module: nn.Module) -> float:
        """Mean IoU over the classes that occur in labels or answers, all pixels together."""
        images, labels = self._test
        outputs = torch.cat(list(_answers(module, images)))
        classes = outputs.shape[1]
        pairs = (labels * classes + outputs.argmax(1)).flatten()
        table = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        return mean_iou(table.numpy())


class _Imitation:
    """Frames, and what a float network says of them.

    There are no labels: the float network's outputs are what is wanted.

    Args:
        teacher: The float network; outputs in the order of ``manifest.output.tensors``.
        frames: To train on; ``make_input`` prepares them as the device will.
        test_frames: Not trained on.
        manifest: Of the float network.
    """

    variation: ClassVar[Variation]
    """Of frames that are trained on; the float network says anew what is wanted of each."""

    def __init__(
        self,
        teacher: nn.Module,
        frames: Iterable[Frame],
        test_frames: Iterable[Frame],
        manifest: Manifest,
    ) -> None:
        self._teacher = teacher.eval()
        self._manifest = manifest
        self._inputs = _inputs(frames, manifest)
        tests = list(test_frames)
        self._tests = _inputs(tests, manifest)
        self._test_sizes = [(frame.width, frame.height) for frame in tests]

    def __len__(self) -> int:
        return len(self._inputs)

    def digest(self) -> str:
        """Of the prepared frames and augmentation."""
        return _digest(self._inputs, repr(self.variation))

    def batch(self, indices: Tensor, generator: Generator | None) -> Batch:
        """Inputs, then the float network's outputs for them."""
        inputs = self._inputs[indices]
        if generator is not None:
            inputs = self.variation.apply(inputs, generator)
        with torch.no_grad():
            outputs = self._teacher(inputs)
        return inputs, *((outputs,) if isinstance(outputs, Tensor) else outputs)


class Detection(_Imitation):
    """A detection head learns to say what the float detector says.

    Where the float detector sees something, its classes and distances are what is wanted
    (``distill.imitation_loss``). The figure is the agreement in AP at IoU 0.5 with the float
    detector's boxes, on other frames. Outputs: per stride class logits, then distances.

    Frames are varied in size and place as well: of a camera that never moves they are much alike.
    NanoDet-g at 3 bits and 90% zeros, 160x128, 100 frames, 375 steps, lost 6.5 points with it and
    7.7 without.
    """

    variation = Variation(zoom=1.4, shift=0.15)
    _truth: list[Detections] | None = None

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Imitation of the float detector."""
        return imitation_loss(outputs, batch[1:])

    def metric(self, module: nn.Module) -> float:
        """Average precision over all classes, with the float detector's boxes as truth."""
        if self._truth is None:
            found = self._boxes(self._teacher)
            self._truth = [boxes[boxes.scores >= REFERENCE_SCORE] for boxes in found]
        return average_precision(self._truth, self._boxes(module))

    def _boxes(self, module: nn.Module) -> list[Detections]:
        manifest, found = self._manifest, []
        for outputs, size in zip(_answers(module, self._tests, 1), self._test_sizes, strict=True):
            arrays: Mapping[str, Any] = {
                name: tensor.contiguous().numpy()
                for name, tensor in zip(manifest.output.tensors, outputs, strict=True)
            }
            found.append(ranked_boxes(arrays, manifest, *size))
        return found


class Classes(_Imitation):
    """Class logits, of a picture or of every cell, learn to be what the float network's are.

    The loss is the divergence of softened classes (``distill.logit_loss``), the figure the share
    of pictures or cells with the float network's class, on other frames. Output: logits
    (n, classes) or (n, classes, rows, columns).
    """

    variation = Variation()

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Divergence from the float network."""
        return logit_loss(outputs, batch[1], CLASS_TEMPERATURE)

    def metric(self, module: nn.Module) -> float:
        """Share of pictures or cells with the float network's class."""
        wanted, given = (
            torch.cat([outputs.argmax(1) for outputs in _answers(of, self._tests)])
            for of in (self._teacher, module)
        )
        return float((wanted == given).double().mean())


_IMITATIONS: Final[Mapping[str, type[Detection] | type[Classes]]] = {
    "nanodet-gfl": Detection,
    "class-scores": Classes,
    "class-map": Classes,
}


def imitation(
    teacher: nn.Module,
    frames: Iterable[Frame],
    test_frames: Iterable[Frame],
    manifest: Manifest,
) -> Detection | Classes:
    """The task of saying what a float network of this kind says; arguments as ``Detection``'s.

    Raises:
        InvalidInput: Outputs that cannot be imitated, or an input that is not NCHW.
    """
    of_decoder = _IMITATIONS.get(manifest.output.decoder)
    if of_decoder is None or manifest.input.layout != "NCHW":
        raise InvalidInput(
            f"{manifest.output.decoder!r} outputs and {manifest.input.layout} input cannot be "
            "imitated",
            f"give a network with NCHW input and one of {', '.join(_IMITATIONS)}",
        )
    return of_decoder(teacher, frames, test_frames, manifest)


def _answers(module: nn.Module, images: Tensor, chunk: int = _CHUNK) -> Iterable[Any]:
    """Outputs chunk by chunk, in evaluation mode; the module's mode is as before afterwards."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(images), chunk):
                part = images[start : start + chunk]
                yield module(part.contiguous(memory_format=torch.channels_last))
    finally:
        module.train(was_training)


def _inputs(frames: Iterable[Frame], manifest: Manifest) -> Tensor:
    arrays = [make_input(frame, manifest.input) for frame in frames]
    if not arrays:
        raise InvalidInput("there are no frames", "give at least one to train on, one to test on")
    return torch.from_numpy(np.concatenate(arrays))


def _check_pairs(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or not len(images) or len(images) != len(labels):
        raise InvalidInput(
            f"pictures of shape {tuple(images.shape)} with labels of shape {tuple(labels.shape)}",
            "give pictures (n, c, h, w), at least one, and as many labels",
        )


def _digest(*parts: Tensor | float | str | None) -> str:
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            total.update(f"{part.dtype}{tuple(part.shape)}".encode())
            total.update(part.contiguous().numpy().tobytes())
        else:
            total.update(repr(part).encode())
    return total.hexdigest()
