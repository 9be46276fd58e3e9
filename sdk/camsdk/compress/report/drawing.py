"""Small drawings for a page: bars, histograms and curves as SVG, boxes on frames as JPEG."""

import html
from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from camsdk.compress.report.facts import Histogram
from camsdk.errors import InternalError
from camsdk.vision.frames import Frame
from camsdk.vision.results import Detections

SHOWN_SCORE: Final = 0.35
"""Boxes below are not drawn: what an application would act upon is."""
_JPEG_QUALITY: Final = 80
_MAX_WIDTH_PX: Final = 560


def bar(share: float, text: str, *, width_px: int = 120) -> str:
    """A horizontal bar that is ``share`` full, 0 to 1, with words over it."""
    full = round(width_px * min(max(share, 0.0), 1.0), 1)
    return (
        f'<svg width="{width_px}" height="16" role="img" aria-label="{html.escape(text)}">'
        f'<rect width="{width_px}" height="16" rx="2" class="rail"/>'
        f'<rect width="{full}" height="16" rx="2" class="fill"/>'
        f'<text x="5" y="12">{html.escape(text)}</text></svg>'
    )


def bins(of: Histogram, *, width_px: int = 132, height_px: int = 26) -> str:
    """A histogram; heights are square roots of counts, so that rare values still show."""
    tallest = max(of.counts, default=0) or 1
    step = width_px / max(1, len(of.counts))
    columns = []
    for index, count in enumerate(of.counts):
        tall = height_px * (count / tallest) ** 0.5
        if count:
            columns.append(
                f'<rect x="{index * step:.1f}" y="{height_px - tall:.1f}" '
                f'width="{step * 0.9:.1f}" height="{tall:.1f}"/>'
            )
    label = f"{of.low:.3g} to {of.high:.3g}"
    return (
        f'<svg width="{width_px}" height="{height_px}" class="bins" role="img" '
        f'aria-label="histogram, {label}"><title>{label}</title>{"".join(columns)}</svg>'
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
        f'<svg width="{width_px}" height="{height_px}" class="curve" role="img" '
        f'aria-label="from {values[0]:.4g} to {values[-1]:.4g}"><polyline points="{points}"/></svg>'
    )


def boxed(frame: Frame, found: Detections, classes: Sequence[str]) -> bytes:
    """A frame with boxes and scores, at most 560 pixels wide, as JPEG.

    Args:
        found: In pixels of the frame; those from 0.35 on are drawn.
        classes: Names by class id.
    """
    picture = np.ascontiguousarray(frame.rgb[:, :, ::-1])
    shown = found[found.scores >= SHOWN_SCORE]
    for xyxy, score, class_id in zip(shown.xyxy, shown.scores, shown.class_ids, strict=True):
        left, top, right, bottom = (round(float(value)) for value in xyxy)
        cv2.rectangle(picture, (left, top), (right, bottom), (60, 200, 255), 2)
        text = f"{classes[int(class_id)]} {float(score):.2f}"
        cv2.putText(
            picture, text, (left, max(10, top - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.4,
            (60, 200, 255), 1, cv2.LINE_AA,
        )  # fmt: skip
    if picture.shape[1] > _MAX_WIDTH_PX:
        height = round(picture.shape[0] * _MAX_WIDTH_PX / picture.shape[1])
        size = (_MAX_WIDTH_PX, height)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    is_done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not is_done:
        raise InternalError("a sample picture could not be encoded")
    return bytes(encoded)
