"""NanoDet-g: what is known of the published detector, and how it becomes an artifact.

The graph is TensorFlow.js, 416x416, 80 COCO classes, 3.8 million parameters; it was published as
NanoDet by RangiLyu (Apache-2.0). Sigmoid, reshape and transpose at its end are left to
``camsdk.artifact.decode``, which does them for the few cells that matter: the artifact's outputs
are those of the head's convolutions.

Every layer but the resizing ones works at any size, and those only name the sizes of the feature
maps, so the input may be any multiple of 32. The default fits a 4:3 camera: three quarters of the
work of 416x416 for the same picture, which the rest of the square would only pad.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from camsdk import assets
from camsdk.artifact.manifest import InputSpec, Lineage, Manifest, OutputSpec
from camsdk.compress.importers.tfjs import convert_graph
from camsdk.compress.importers.tfjs_reader import Array, TfGraph, read_graph
from camsdk.compress.library_int8 import compress_int8
from camsdk.compress.packaging import TOOL_VERSION, Description, Draft, make_draft
from camsdk.compress.quantize import DEFAULTS, Int8Options
from camsdk.compress.steps import OnProgress
from camsdk.errors import InvalidInput, UnsupportedModel

NAME: Final = "nanodet-g"
FLOAT_NAME: Final = "nanodet-g-fp32"
PUBLISHED_SIZE: Final = 416
DEFAULT_SIZE: Final = (416, 320)
STRIDES: Final = (8, 16, 32)
CALIBRATION_CLIP: Final = "vtest.avi"

_INPUT: Final = "input_1"
_HEAD_SPLITS: Final = ("153", "164", "175")
"""The layers that part each stride's head into class logits and distances, finest stride first."""

COCO_CLASSES: Final = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


def output_names() -> tuple[str, ...]:
    """The artifact's outputs: per stride class logits, then distances."""
    return tuple(f"{kind}_{stride}" for stride in STRIDES for kind in ("logits", "distances"))


def import_onnx(
    graph_json: Path, weights: Path, *, size: tuple[int, int] = DEFAULT_SIZE
) -> onnx.ModelProto:
    """The published graph as ONNX, from input to the head's convolutions.

    Args:
        graph_json, weights: The two published files.
        size: Width and height of the input, multiples of 32.

    Raises:
        InvalidInput: ``size`` is no multiple of 32.
        UnsupportedModel: It is another graph than the published one.
        NotFound, DataCorrupted: As for ``import_graph_model``.
    """
    width, height = size
    if width % 32 or height % 32 or min(size) < 64:
        raise InvalidInput(
            f"{width}x{height} is no input size of {NAME}", "give multiples of 32 from 64 on"
        )
    graph = read_graph(graph_json, shards={"nanodet.bin": weights})
    tensors = [
        f"PartitionedCall/onnx_tf_prefix_Split_{split}{part}"
        for split in _HEAD_SPLITS
        for part in ("", ":1")
    ]
    outputs = dict(zip(output_names(), tensors, strict=True))
    if not all(tensor.partition(":")[0] in graph.nodes for tensor in tensors):
        raise UnsupportedModel(f"{graph_json.name} is not the published graph of {NAME}")
    resized = replace(graph, constants=_resized(graph, size))
    return convert_graph(resized, outputs=outputs, input_shapes={_INPUT: (1, 3, height, width)})


def _resized(graph: TfGraph, size: tuple[int, int]) -> Mapping[str, Array]:
    """The constants, with the sizes of feature maps those of another input size."""
    width, height = size
    constants = dict(graph.constants)
    for node in graph.nodes.values():
        if node.op == "ResizeBilinear":
            rows, columns = graph.constants[node.inputs[1]].tolist()
            constants[node.inputs[1]] = np.array(
                [rows * height // PUBLISHED_SIZE, columns * width // PUBLISHED_SIZE], np.int32
            )
    return constants


def import_float(
    graph_json: Path,
    weights: Path,
    *,
    size: tuple[int, int] = DEFAULT_SIZE,
    name: str = FLOAT_NAME,
    version: int = 1,
) -> Draft:
    """The published detector as a float artifact. Raises as ``import_onnx``."""
    model = import_onnx(graph_json, weights, size=size)
    digest = hashlib.sha256(graph_json.read_bytes() + weights.read_bytes()).hexdigest()
    lineage = Lineage(
        source="NanoDet-g 416, TensorFlow.js graph and weights, concatenated",
        source_sha256=digest,
        tool="camsdk.compress.importers.tfjs",
        tool_version=TOOL_VERSION,
        options={"input_size": f"{size[0]}x{size[1]}"},
    )
    spec = InputSpec(
        name=_INPUT,
        width=size[0],
        height=size[1],
        layout="NCHW",
        color="BGR",
        mean=(103.53, 116.28, 123.675),
        std=(57.375, 57.12, 58.395),
        resize="letterbox",
    )
    output = OutputSpec(
        decoder="nanodet-gfl",
        tensors=output_names(),
        strides=STRIDES,
        reg_max=10,
        # Trackers make use of uncertain boxes, but below this most are ghosts beside a box that
        # is sure already: 23 boxes a frame of the walkers' clip at 0.2, 14 here, 8 above 0.5.
        score_threshold=0.3,
        nms_iou=0.6,
        max_detections=100,
    )
    description = Description(name, version, "fp32", COCO_CLASSES, spec, output, lineage)
    return make_draft(model, description)


def build(
    *,
    graph_json: Path | None = None,
    weights: Path | None = None,
    clip: Path | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    name: str = NAME,
    version: int = 1,
    options: Int8Options = DEFAULTS,
    on_progress: OnProgress | None = None,
) -> tuple[Manifest, Mapping[str, bytes]]:
    """Import, quantize to int8 and evaluate against float: ready for ``bundle.pack``.

    Args:
        graph_json, weights: The published files; by default pulled.
        clip: To calibrate and evaluate on, on different frames; by default ``vtest.avi``, pulled.
        size: Width and height of the input.
        name, version: Of the artifact.
        options: Of the quantizer.
        on_progress: Steps done and steps in all.

    Raises:
        AssetError: A file cannot be had.
        CamError: As for the steps.
    """
    source = import_float(
        graph_json or assets.pull("nanodet.json"), weights or assets.pull("nanodet.bin"), size=size
    )
    compressed = compress_int8(
        source,
        clip or assets.pull(CALIBRATION_CLIP),
        name=name,
        version=version,
        options=options,
        on_progress=on_progress,
    )
    return compressed.draft.manifest, compressed.draft.members
