"""Trainings of the detector: same frames, steps, optimizer and loss for every contender.

The loop is ``camsdk.compress.training.trainer``, the loss that of ``tasks.Detection``: the float
detector is the teacher of all. Contenders:

- ``rounding``: ours without training, what ``ours`` begins with.
- ``ours``: as ``camctl model compress`` trains.
- ``lsq``: the paper (``peers/lsq.py``) on the float network's torch twin.
- ``magnitude_lsq``: the same, with weights that go by magnitude along the cubic schedule of
  arXiv:1710.01878 on the way, one threshold over all layers but the first and the last ones.
- ``lsq_adam``, ``magnitude_lsq_adam``: both with the optimizers of ours (``training.optimizers``):
  Adam for weights and biases, SGD for the steps. The paper has SGD for all.

LSQ rounds what enters layers alone; ours also rounds sums and concatenations between them, as a
device with integers must, and its first and last layers keep 7 bits, where LSQ's keep 8.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from camsdk import assets
from camsdk.artifact.manifest import Manifest
from camsdk.compress import nanodet
from camsdk.compress.clips import split_clip
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.footage import open_footage
from camsdk.compress.graph.qdq import emit_qdq
from camsdk.compress.options import (
    CodeSet,
    CompressOptions,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.ptq.edges import find_edges
from camsdk.compress.ptq.folding import prepare
from camsdk.compress.ptq.quantizing import quantize_after_training
from camsdk.compress.training import optimizers
from camsdk.compress.training.compressing import School, learn_codes
from camsdk.compress.training.tasks import Detection
from camsdk.compress.training.trainer import Progress, train
from camsdk.compress.training.twin import to_torch
from camsdk.vision.frames import Frame
from peers import lsq
from peers.detector import JUDGED
from peers.heads import all_outputs
from peers.magnitude import END, STEPS
from peers.ptq import by_onnxruntime
from peers.recipe import Row

METHODS = ("rounding", "ours", "lsq", "lsq_adam", "magnitude_lsq", "magnitude_lsq_adam")
optimizers.QUANTIZERS += (lsq.Step,)

ADAM = "_adam"
"""Ends the name of a peer that has it."""


@dataclass(frozen=True)
class Course:
    """What all contenders of a row get.

    Attributes:
        folder: Made by ``peers.detector``.
        frames: To train on, of the first third.
        work: Of checkpoints.
    """

    folder: Path
    frames: int
    row: Row
    train: TrainOptions
    work: Path

    @property
    def model(self) -> onnx.ModelProto:
        """Float."""
        return onnx.load(self.folder / "model.onnx")

    @property
    def manifest(self) -> Manifest:
        """Of the float model."""
        return Manifest.model_validate_json((self.folder / "manifest.json").read_text())

    def pictures(self) -> list[Frame]:
        """Those to train on."""
        footage = open_footage(assets.pull(nanodet.CALIBRATION_CLIP))
        split = split_clip(len(footage), calibration=self.frames, evaluation=JUDGED)
        return list(footage.read(split.calibration))


def outputs(method: str, course: Course) -> list[np.ndarray]:
    """Of the compressed detector, for the frames that are judged."""
    judged = np.load(course.folder / "judged.npy")
    if method in ("rounding", "ours"):
        made = _ours(course, is_trained=method == "ours")
        return all_outputs(by_onnxruntime(made))(judged)
    module = _peer(course, method)
    with torch.no_grad():
        each = [module(torch.from_numpy(judged[at : at + 1])) for at in range(len(judged))]
    return [torch.cat(parts).numpy() for parts in zip(*each, strict=True)]


def _ours(course: Course, *, is_trained: bool) -> onnx.ModelProto:
    row, model = course.row, course.model
    quantize = QuantizeOptions(WeightOptions(CodeSet(row.weight_bits)), rounding="gptq")
    prune = PruneOptions(row.sparsity) if row.sparsity else None
    calibration = np.load(course.folder / "calibration.npy")
    made = quantize_after_training(
        model, quantize, calibration, prune=prune, seed=course.train.seed
    )
    coded = CodedModel(made.model, made.weights, made.activations, {})
    if is_trained:
        school = School(model, course.manifest, course.pictures(), course.work, _told)
        options = CompressOptions(quantize, prune, train=course.train)
        coded = learn_codes(school, coded, options)
    return emit_qdq(coded.model, coded.weights, coded.activations)


def _peer(course: Course, method: str) -> nn.Module:
    # Where the model has BatchNorm it is folded, as in ours.
    folded = prepare(course.model).model
    twin, teacher = to_torch(folded), to_torch(folded).module
    edges = tuple(twin.module_of[name] for name in find_edges(folded))
    pictures = course.pictures()
    task = Detection(teacher, pictures, pictures[:1], course.manifest)
    kind = MagnitudeLsqMethod if method.startswith("magnitude") else LsqMethod
    train(
        twin.module, task, kind(course.row, edges), course.train, teacher=teacher,
        optimizer="adam" if method.endswith(ADAM) else "sgd",
        checkpoint=course.work / f"{method}-{course.row.name}.camtrain", on_progress=_told,
    )  # fmt: skip
    return twin.module.eval()


def _told(progress: Progress) -> None:
    if progress.step % max(1, progress.steps // 20) == 0:
        text = f"step {progress.step} of {progress.steps}, loss {progress.loss:.4f}"
        print(f"{text}, {progress.remaining_s:.0f} s left", file=sys.stderr, flush=True)


class LsqMethod:
    """``peers.lsq`` as the trainer's loop calls it."""

    extra_gradient = False

    def __init__(self, row: Row, edges: tuple[str, ...]) -> None:
        self._row, self._edges = row, edges

    def attach(self, module: nn.Module, example: Tensor) -> None:
        """Quantize every convolution."""
        lsq.prepare(module, self._row, self._edges, example)

    def after_backward(self, progress: float) -> None:
        """Nothing."""

    def after_step(self, progress: float) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Tensor | float | int]:
        """All of it is in the module."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """Nothing."""


class MagnitudeLsqMethod(LsqMethod):
    """With weights that go by magnitude, as ``peers.magnitude`` has it."""

    def __init__(self, row: Row, edges: tuple[str, ...]) -> None:
        super().__init__(row, edges)
        self._layers: dict[str, nn.Module] = {}
        self._masks: dict[str, Tensor] = {}
        self._done = -1

    def attach(self, module: nn.Module, example: Tensor) -> None:
        """Remember whose weights go."""
        super().attach(module, example)
        self._layers = {
            name: part.layer
            for name, part in module.named_modules()
            if isinstance(part, lsq.Quantized) and name not in self._edges
        }
        self._masks = {
            name: torch.ones_like(layer.weight, dtype=torch.bool)
            for name, layer in self._layers.items()
        }

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Momentum moves what is gone; a new threshold at each of the steps of the schedule."""
        for name, layer in self._layers.items():
            layer.weight.masked_fill_(~self._masks[name], 0.0)
        step = min(int(progress / END * STEPS), STEPS)
        if step == self._done:
            return
        self._done = step
        share = self._row.sparsity * (1 - (1 - step / STEPS) ** 3)
        sizes = torch.cat([layer.weight.abs().flatten() for layer in self._layers.values()])
        gone = round(share * len(sizes))
        if not gone:
            return
        threshold = sizes.kthvalue(gone).values
        for name, layer in self._layers.items():
            self._masks[name] = layer.weight.abs() > threshold
            layer.weight.masked_fill_(~self._masks[name], 0.0)

    def state_dict(self) -> dict[str, Tensor | float | int]:
        """The masks."""
        return {"done": self._done, **self._masks}

    def load_state_dict(self, state: Mapping[str, Tensor | float | int]) -> None:
        """What ``state_dict`` gave."""
        self._done = int(state["done"])
        self._masks = {name: state[name].bool() for name in self._layers}
