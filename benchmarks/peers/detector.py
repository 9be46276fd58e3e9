"""The task ``nanodet``: NanoDet-g on the clip ``vtest.avi``, the float network's boxes as truth.

100 frames of the clip's first third to calibrate on, 50 of its second half to judge on: average
precision at an IoU of 0.5 against the boxes of the float network (``camsdk.compress.evaluate``),
and the squared error of its outputs, relative to the squares of the float network's.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from camsdk import assets
from camsdk.artifact.manifest import Manifest
from camsdk.artifact.preprocess import make_input
from camsdk.compress import nanodet
from camsdk.compress.clips import split_clip
from camsdk.compress.evaluate import REFERENCE_SCORE, average_precision, ranked_boxes
from camsdk.compress.footage import open_footage
from camsdk.compress.graph.optimise import optimise
from camsdk.compress.ptq.edges import find_edges
from camsdk.vision.results import Detections
from peers.heads import all_outputs
from peers.ptq import by_onnxruntime

NAME = "nanodet"
CALIBRATION, JUDGED = 100, 50
INPUT = "x"
"""As contenders expect it."""
PREPROCESSING = (114.495, 57.63)
"""Mean over the channels of what the manifest has: pictures are made up with one for all."""


def make(
    folder: Path, *, size: tuple[int, int] = nanodet.DEFAULT_SIZE, calibration: int = CALIBRATION
) -> None:
    """Writes model.onnx, calibration, judged, manifest, edges and, last, the float outputs.

    Args:
        folder: Where to; complete once it has ``float.npz``.
        size: Width and height of the input, multiples of 32.
        calibration: Frames of the first third.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph, weights = assets.pull("nanodet.json"), assets.pull("nanodet.bin")
    source = nanodet.import_float(graph, weights, size=size)
    model = optimise(onnx.load_from_string(source.model), keep_batchnorm=True).model
    _rename_input(model)
    onnx.save(model, folder / "model.onnx")
    (folder / "edges.json").write_text(json.dumps(find_edges(model)))
    (folder / "manifest.json").write_text(source.manifest.model_dump_json())
    footage = open_footage(assets.pull(nanodet.CALIBRATION_CLIP))
    split = split_clip(len(footage), calibration=calibration, evaluation=JUDGED)
    for key, indices in (("calibration", split.calibration), ("judged", split.evaluation)):
        frames = list(footage.read(indices))
        inputs = [make_input(frame, source.manifest.input) for frame in frames]
        np.save(folder / f"{key}.npy", np.concatenate(inputs))
    (folder / "size.json").write_text(json.dumps([frames[0].width, frames[0].height]))
    outputs = all_outputs(by_onnxruntime(model))(np.load(folder / "judged.npy"))
    np.savez(folder / "float.npz", *outputs)


def _rename_input(model: onnx.ModelProto) -> None:
    before = model.graph.input[0].name
    model.graph.input[0].name = INPUT
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == before:
                node.input[at] = INPUT


def judge(given: Sequence[np.ndarray], folder: Path) -> dict[str, float]:
    """Points of average precision lost over all classes and of persons, and the squared error."""
    with np.load(folder / "float.npz") as held:
        exact = [held[name] for name in held.files]
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    width, height = json.loads((folder / "size.json").read_text())
    truth = [
        boxes[boxes.scores >= REFERENCE_SCORE]
        for boxes in found_boxes(exact, manifest, width, height)
    ]
    found = found_boxes(given, manifest, width, height)
    person = manifest.classes.index("person")
    apart = sum(
        np.square(x.astype(np.float64) - y).sum() for x, y in zip(given, exact, strict=True)
    )
    return {
        "error": 1000 * float(apart / sum(np.square(y.astype(np.float64)).sum() for y in exact)),
        "drop": 100 * (1 - average_precision(truth, found)),
        "persons": 100 * (1 - average_precision(truth, found, class_id=person)),
    }


def found_boxes(
    outputs: Sequence[np.ndarray], manifest: Manifest, width: int, height: int
) -> list[Detections]:
    """Of each frame, as ``ranked_boxes`` gives them.

    Args:
        outputs: (frames, ...) each, in the order of the manifest.
        width, height: Of the frames, pixels.
    """
    named = dict(zip(manifest.output.tensors, outputs, strict=True))
    found = []
    for at in range(len(outputs[0])):
        frame = {name: np.ascontiguousarray(tensor[at : at + 1]) for name, tensor in named.items()}
        found.append(ranked_boxes(frame, manifest, width, height))
    return found
