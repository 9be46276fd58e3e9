"""Small drawings for a page: bars, histograms and curves as SVG, boxes on frames as JPEG."""

import base64
import html
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

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


def _label(picture: NDArray[np.uint8], text: str, left: int, top: int) -> None:
    """Words on a plate above a box, or inside of it at the upper edge, all within the picture."""
    (wide, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT, 1)
    left = max(0, min(left, picture.shape[1] - wide - 4))
    bottom = max(top, tall + below + 2)
    cv2.rectangle(picture, (left, bottom - tall - below - 2), (left + wide + 4, bottom), _BOX, -1)
    at = (left + 2, bottom - below)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, _FONT, (20, 20, 20), 1, cv2.LINE_AA)


def boxed(frame: Frame, found: Detections, classes: Sequence[str]) -> bytes:
    """A frame with boxes and scores, at most 640 pixels wide, as JPEG.

    Args:
        found: In pixels of the frame; those from 0.35 on are drawn.
        classes: Names by class id.
    """
    picture = np.ascontiguousarray(frame.rgb[:, :, ::-1])
    shrunk = min(1.0, _MAX_WIDTH_PX / picture.shape[1])
    if shrunk < 1:
        size = (_MAX_WIDTH_PX, round(picture.shape[0] * shrunk))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    shown = found[found.scores >= SHOWN_SCORE]
    for xyxy, score, class_id in zip(shown.xyxy, shown.scores, shown.class_ids, strict=True):
        left, top, right, bottom = (round(float(value) * shrunk) for value in xyxy)
        cv2.rectangle(picture, (left, top), (right, bottom), _BOX, 2)
        _label(picture, f"{classes[int(class_id)]} {float(score):.2f}", left, top)
    is_done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not is_done:
        raise InternalError("a sample picture could not be encoded")
    return bytes(encoded)
