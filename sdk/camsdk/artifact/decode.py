"""From a model's output tensors to ``Detections``, class scores or a map, as the manifest says.

``nanodet-gfl`` (Generalized Focal Loss, arXiv:2006.04388): for each stride one tensor of class
logits (1, classes, rows, columns) and one of distance distributions (1, 4 * (reg_max + 1), rows,
columns). A cell's class is its largest logit; its score is the sigmoid of that. Left, top, right
and bottom are the expected values of their softmax distributions over 0..reg_max, in strides, from
the cell's centre. Only cells above the threshold are decoded, so the cost follows the objects.

``class-scores`` and ``class-map``: logits with the classes along axis 1; scores are their softmax.

A model is not trusted: wrong shapes raise, and what is not finite is dropped.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.manifest import Manifest
from camsdk.artifact.preprocess import placement
from camsdk.errors import RuntimeFailure
from camsdk.vision import geometry
from camsdk.vision.results import F32, I64, Detections

MAX_CANDIDATES = 1000
"""Boxes that enter suppression, best first; bounds its time against a model that fires at all."""


def decode(
    outputs: Mapping[str, NDArray[np.generic]], manifest: Manifest, width: int, height: int
) -> Detections:
    """Boxes of one frame, best first, after class-wise non-maximum suppression.

    Args:
        outputs: Arrays by tensor name, as the runtime gave them.
        manifest: Says what they mean.
        width, height: Of the frame, pixels.

    Returns:
        At most ``max_detections`` boxes in pixels of the frame, clipped to it.

    Raises:
        RuntimeFailure: A tensor is missing or has another shape than the manifest implies, or the
            model is no detector.
    """
    if manifest.output.decoder == "nanodet-gfl":
        found = _nanodet(outputs, manifest)
    elif manifest.output.decoder == "boxes-scores-classes":
        found = _decoded_boxes(outputs, manifest)
    else:
        raise RuntimeFailure(f"{manifest.reference} is a {manifest.kind}: it finds no boxes")
    place = placement(manifest.input, width, height)
    scale = np.array([place.scale_x, place.scale_y] * 2, np.float32)
    limit = np.array([width, height] * 2, np.float32)
    xyxy = np.clip(found.xyxy * scale, 0, limit)
    is_area = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])  # false for NaN too
    found = Detections(xyxy, found.scores, found.class_ids)[is_area]
    order = np.argsort(-found.scores, kind="stable")[:MAX_CANDIDATES]
    found = found[order.astype(np.int64)]
    keep = suppress(found.xyxy, found.class_ids, manifest.output.nms_iou)
    return found[keep[: manifest.output.max_detections]]


def check_shapes(outputs: Mapping[str, NDArray[np.generic]], manifest: Manifest) -> None:
    """That the outputs are what the manifest says, whatever they hold.

    Args:
        outputs: As in ``decode``.

    Raises:
        RuntimeFailure: A tensor is missing or has another shape; names it and both shapes.
    """
    if manifest.output.decoder == "nanodet-gfl":
        shapes = {name: shape for scale in _scales(manifest) for name, shape in scale.shapes}
    elif manifest.output.decoder == "boxes-scores-classes":
        boxes, scores, class_ids = manifest.output.tensors
        given, of_scores = (np.shape(outputs.get(name, ())) for name in (boxes, scores))
        scored = math.prod(of_scores) if scores in outputs else 0
        count = given[1] if len(given) == 3 else scored
        shapes = {boxes: (1, count, 4), class_ids: (1, count)}
        # ``decode`` reads scores in whatever shape they have.
        is_whole = scores in outputs and scored == count
        shapes[scores] = of_scores if is_whole else (1, count)
    else:
        shapes = {manifest.output.tensors[0]: _class_shape(outputs, manifest)}
    for name, shape in shapes.items():
        _tensor(outputs, name, shape)


def class_logits(outputs: Mapping[str, NDArray[np.generic]], manifest: Manifest) -> F32:
    """Logits of a classifier (classes,) or of a segmenter (classes, rows, columns), float32.

    Raises:
        RuntimeFailure: The tensor is missing, has another shape than the manifest implies, or
            holds what is not finite.
    """
    (name,) = manifest.output.tensors
    shape, classes = _class_shape(outputs, manifest), len(manifest.classes)
    logits = _tensor(outputs, name, shape)
    if not np.isfinite(logits).all():
        raise RuntimeFailure(f"the model's output {name!r} is not finite")
    return logits.reshape(classes) if manifest.kind == "classifier" else logits[0]


def class_scores(logits: F32) -> F32:
    """Softmax over axis 0, float32 of the same shape."""
    weights = np.exp(logits - logits.max(axis=0, keepdims=True))
    return np.asarray(weights / weights.sum(axis=0, keepdims=True), np.float32)


def _class_shape(outputs: Mapping[str, NDArray[np.generic]], manifest: Manifest) -> tuple[int, ...]:
    """What the shape has to be; of the two of a classifier, and of any map, the one at hand."""
    tensor, classes = outputs.get(manifest.output.tensors[0]), len(manifest.classes)
    given = () if tensor is None else tensor.shape
    if manifest.kind == "classifier":
        return (1, classes, 1, 1) if len(given) == 4 else (1, classes)
    return (1, classes, *(given[2:] if len(given) == 4 and min(given) > 0 else (1, 1)))


def suppress(xyxy: F32, class_ids: I64, iou: float) -> I64:
    """Greedy non-maximum suppression within each class.

    Args:
        xyxy: float32 (n, 4), best first.
        class_ids: int64 (n,).
        iou: Of two boxes that overlap more, the later one goes.

    Returns:
        int64 (k,), indices that stay, ascending.
    """
    if not len(xyxy):
        return np.zeros(0, np.int64)
    overlaps = geometry.iou(xyxy, xyxy) > iou
    overlaps &= class_ids[:, np.newaxis] == class_ids
    is_gone = np.zeros(len(xyxy), np.bool_)
    for index in range(len(xyxy)):
        if not is_gone[index]:
            is_gone[index + 1 :] |= overlaps[index, index + 1 :]
    return np.flatnonzero(~is_gone)


def _nanodet(outputs: Mapping[str, NDArray[np.generic]], manifest: Manifest) -> Detections:
    """Boxes above the threshold, in pixels of the input tensor, before suppression."""
    columns = zip(*_nanodet_cells(outputs, manifest), strict=True)
    logits, spread, centres, strides = (np.concatenate(parts, axis=-1) for parts in columns)
    class_ids = logits.argmax(axis=0)
    scores = _sigmoid(np.take_along_axis(logits, class_ids[np.newaxis], 0)[0])
    left, top, right, bottom = _expected(spread) * strides
    x, y = centres
    xyxy = np.stack([x - left, y - top, x + right, y + bottom], axis=1)
    return Detections(xyxy.astype(np.float32), scores, class_ids.astype(np.int64))


def _nanodet_cells(
    outputs: Mapping[str, NDArray[np.generic]], manifest: Manifest
) -> Iterator[tuple[F32, F32, F32, F32]]:
    """For each stride what its n cells above the threshold hold.

    Class logits (classes, n), distributions (4, bins, n), centres (2, n) in pixels of the input,
    and the stride (n,).
    """
    bins = manifest.output.reg_max + 1
    threshold = np.float32(_logit(manifest.output.score_threshold))
    for scale in _scales(manifest):
        found, spread = (_tensor(outputs, name, shape) for name, shape in scale.shapes)
        logits = found.reshape(len(manifest.classes), -1)
        cells = np.flatnonzero(logits.max(axis=0) >= threshold)  # NaN compares false
        row, column = np.divmod(cells, spread.shape[3])
        centres = (np.stack([column, row]) + np.float32(0.5)) * np.float32(scale.stride)
        yield (
            logits[:, cells],
            spread.reshape(4, bins, -1)[:, :, cells],
            centres,
            np.full(len(cells), scale.stride, np.float32),
        )


class _Scale(NamedTuple):
    """One stride of ``nanodet-gfl``, with its logits' and its distributions' names and shapes."""

    stride: int
    shapes: tuple[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]]


def _scales(manifest: Manifest) -> Iterator[_Scale]:
    spec, size = manifest.output, manifest.input
    for stride, logits, distances in zip(
        spec.strides, spec.tensors[::2], spec.tensors[1::2], strict=True
    ):
        cells = (-(-size.height // stride), -(-size.width // stride))
        yield _Scale(
            stride,
            (
                (logits, (1, len(manifest.classes), *cells)),
                (distances, (1, 4 * (spec.reg_max + 1), *cells)),
            ),
        )


def _expected(spread: F32) -> F32:
    """Expected bin of softmax distributions (4, bins, n), shape (4, n); NaN stays NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        weights = np.exp(spread - spread.max(axis=1, keepdims=True))
    bins = np.arange(spread.shape[1], dtype=np.float32)
    return np.asarray(np.einsum("dbn,b->dn", weights, bins) / weights.sum(axis=1), np.float32)


def _sigmoid(logits: F32) -> F32:
    with np.errstate(over="ignore"):  # exp of a very negative logit: its score is 0
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def _decoded_boxes(outputs: Mapping[str, NDArray[np.generic]], manifest: Manifest) -> Detections:
    """``boxes-scores-classes``: xyxy in pixels of the input, scores, class ids; batch of one."""
    boxes_name, scores_name, classes_name = manifest.output.tensors
    scores = np.asarray(outputs.get(scores_name, ()), np.float32).reshape(-1)
    xyxy = _tensor(outputs, boxes_name, (1, len(scores), 4))[0]
    class_ids = _tensor(outputs, classes_name, (1, len(scores)))[0]
    is_known = (class_ids >= 0) & (class_ids < len(manifest.classes))
    keep = np.flatnonzero(is_known & (scores >= manifest.output.score_threshold))
    return Detections(xyxy[keep], np.minimum(scores[keep], 1), class_ids[keep].astype(np.int64))


def _tensor(outputs: Mapping[str, NDArray[np.generic]], name: str, shape: tuple[int, ...]) -> F32:
    tensor = outputs.get(name)
    if tensor is None or tensor.shape != shape:
        found = "is missing" if tensor is None else f"has shape {tensor.shape}"
        raise RuntimeFailure(
            f"the model's output {name!r} {found}, its manifest says {shape}",
            "the model and its manifest do not belong together",
        )
    return np.asarray(tensor, np.float32)
