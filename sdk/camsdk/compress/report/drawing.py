"""Small drawings for a page: bars, histograms and curves as SVG, frames with answers as JPEG."""

import base64
import html
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from camsdk.artifact.manifest import InputSpec
from camsdk.artifact.preprocess import placement
from camsdk.compress.report.facts import Histogram
from camsdk.errors import InternalError
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections

SHOWN_SCORE: Final = 0.35
"""Boxes below are not drawn: what an application would act upon is."""
_JPEG_QUALITY: Final = 80
_MAX_WIDTH_PX: Final = 640
_BOX: Final = (60, 200, 255)
_FONT: Final = 0.42
_LINE_PX: Final = 17


def bar(share: float, *, is_after: bool = False) -> str:
    """A thin horizontal bar that is ``share`` full, 0 to 1; its figure stands beside it as text."""
    full = 100 * min(max(share, 0.0), 1.0)
    kind = "bar after" if is_after else "bar"
    return f'<span class="{kind}" aria-hidden="true"><i style="width:{full:.1f}%"></i></span>'


def bins(of: Histogram, *, is_after: bool = False) -> str:
    """A histogram with its ends; heights are square roots of counts, so that rare values show."""
    width, height = 160, 56
    tallest = max(of.counts, default=0) or 1
    step = width / max(1, len(of.counts))
    columns = []
    for index, count in enumerate(of.counts):
        tall = height * (count / tallest) ** 0.5
        if count:
            columns.append(
                f'<rect x="{index * step:.1f}" y="{height - tall:.1f}" '
                f'width="{step * 0.86:.1f}" height="{tall:.1f}"/>'
            )
    low, high = f"{of.low:.3g}", f"{of.high:.3g}"
    return (
        f'<svg viewBox="0 0 {width} {height + 14}" class="{"bins after" if is_after else "bins"}" '
        f'role="img" aria-label="histogram, {low} to {high}">{"".join(columns)}'
        f'<line x1="0" x2="{width}" y1="{height}" y2="{height}"/>'
        f'<text x="0" y="{height + 12}">{low}</text>'
        f'<text x="{width / 2:.0f}" y="{height + 12}" text-anchor="middle">0</text>'
        f'<text x="{width}" y="{height + 12}" text-anchor="end">{high}</text></svg>'
    )


def curve(values: Sequence[float], *, width_px: int = 480, height_px: int = 120) -> str:
    """Values over steps, from their least to their largest; fewer than two give nothing."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    points = " ".join(
        f"{index * width_px / (len(values) - 1):.1f},{height_px - (v - low) / span * height_px:.1f}"
        for index, v in enumerate(values)
    )
    return (
        f'<svg viewBox="-2 -2 {width_px + 4} {height_px + 4}" class="curve" role="img" '
        f'aria-label="from {values[0]:.4g} to {values[-1]:.4g}"><polyline points="{points}"/></svg>'
    )


def image(jpeg: bytes, alt: str) -> str:
    """A picture within the page."""
    data = base64.b64encode(jpeg).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{data}">'


def written(class_id: int, classes: Sequence[str]) -> str:
    """A class as it can be drawn: OpenCV's letters are those of ASCII, others get a number."""
    name = classes[class_id]
    return name if name.isascii() and name.isprintable() else f"class {class_id}"


def _label(
    picture: NDArray[np.uint8],
    text: str,
    left: int,
    top: int,
    plate: tuple[int, ...] = _BOX,
) -> int:
    """Words on a plate above ``top``, or below it at the upper edge, all within the picture.

    Returns:
        Where the plate ends, pixels from the top.
    """
    (wide, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT, 1)
    left = max(0, min(left, picture.shape[1] - wide - 4))
    bottom = max(top, tall + below + 2)
    cv2.rectangle(picture, (left, bottom - tall - below - 2), (left + wide + 4, bottom), plate, -1)
    at = (left + 2, bottom - below)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, _FONT, (20, 20, 20), 1, cv2.LINE_AA)
    return bottom


def boxed(frame: Frame, found: Detections, classes: Sequence[str]) -> bytes:
    """A frame with boxes and scores, at most 640 pixels wide, as JPEG.

    Args:
        found: In pixels of the frame; those from 0.35 on are drawn.
        classes: Names by class id.
    """
    picture, shrunk = _picture(frame)
    shown = found[found.scores >= SHOWN_SCORE]
    for xyxy, score, class_id in zip(shown.xyxy, shown.scores, shown.class_ids, strict=True):
        left, top, right, bottom = (round(float(value) * shrunk) for value in xyxy)
        cv2.rectangle(picture, (left, top), (right, bottom), _BOX, 2)
        _label(picture, f"{written(int(class_id), classes)} {float(score):.2f}", left, top)
    return _jpeg(picture)


def named(frame: Frame, scores: NDArray[np.float32], classes: Sequence[str]) -> bytes:
    """A frame with its best class and that score, at most 640 pixels wide, as JPEG.

    Args:
        scores: Shape (classes,), of each class.
        classes: Names by class id.
    """
    picture, _ = _picture(frame)
    best = int(scores.argmax())
    _label(picture, f"{written(best, classes)} {float(scores[best]):.2f}", 0, 0)
    return _jpeg(picture)


def coloured(
    frame: Frame, class_map: NDArray[np.int64], classes: Sequence[str], spec: InputSpec
) -> bytes:
    """A frame under a map of classes, with the names of those in it, at most 640 pixels wide.

    Args:
        class_map: Class ids of cells (rows, columns), over the whole input tensor.
        classes: Names by class id; the first keeps the frame as it is.
        spec: Of the input, to know where in the tensor the frame lies.
    """
    picture, _ = _picture(frame)
    place = placement(spec, frame.width, frame.height)
    whole = cv2.resize(
        class_map.astype(np.uint16), (spec.width, spec.height), interpolation=cv2.INTER_NEAREST
    )
    cells = cv2.resize(
        whole[: place.height, : place.width], picture.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    colours = _colours(len(classes))
    mixed = picture // 2 + colours[cells] // 2
    picture = np.ascontiguousarray(np.where(cells[..., np.newaxis] > 0, mixed, picture))
    top = 0
    for class_id in np.unique(cells):
        if class_id:
            plate = tuple(map(int, colours[class_id]))
            top = _label(picture, written(int(class_id), classes), 0, top + _LINE_PX, plate)
    return _jpeg(picture)


def _colours(count: int) -> NDArray[np.uint8]:
    """(count, 3), BGR: hues a golden section apart, so that neighbours differ."""
    hues = (np.arange(count) * 180 * 0.618).astype(np.int64) % 180
    hsv = np.stack([hues, np.full(count, 200), np.full(count, 255)], axis=1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv[np.newaxis], cv2.COLOR_HSV2BGR)[0], np.uint8)


def _picture(frame: Frame) -> tuple[NDArray[np.uint8], float]:
    """BGR, at most 640 pixels wide, and its pixels per pixel of the frame."""
    picture = np.ascontiguousarray(frame.rgb[:, :, ::-1])
    shrunk = min(1.0, _MAX_WIDTH_PX / picture.shape[1])
    if shrunk < 1:
        size = (_MAX_WIDTH_PX, round(picture.shape[0] * shrunk))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    return picture, shrunk


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    is_done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not is_done:
        raise InternalError("a sample picture could not be encoded")
    return bytes(encoded)
