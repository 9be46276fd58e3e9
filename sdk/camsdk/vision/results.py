"""What stages hand on: detections, tracks, appearance codes, events. Arrays side by side.

All boxes are ``xyxy``: float32 pixels of the camera's frame, x right, y down, half-open corners.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.errors import InvalidInput

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]

LINE_CROSSED: Final = "line_crossed"
OUT_OF_BOUNDS: Final = "out_of_bounds"
CAMERA_ONLINE: Final = "camera_online"
CAMERA_OFFLINE: Final = "camera_offline"

_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


def _same_length(**arrays: NDArray[np.generic]) -> None:
    lengths = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidInput(f"columns differ in length: {lengths}")


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector saw in one frame.

    Attributes:
        xyxy: float32 (n, 4), pixels of the frame.
        scores: float32 (n,), 0 to 1.
        class_ids: int64 (n,), indices into the manifest's class names.
    """

    xyxy: F32
    scores: F32
    class_ids: I64

    def __post_init__(self) -> None:
        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4:
            raise InvalidInput(f"xyxy has shape {self.xyxy.shape}, not (n, 4)")
        _same_length(xyxy=self.xyxy, scores=self.scores, class_ids=self.class_ids)

    def __len__(self) -> int:
        return int(self.xyxy.shape[0])

    def __getitem__(self, keep: NDArray[np.bool_] | I64) -> "Detections":
        return Detections(self.xyxy[keep], self.scores[keep], self.class_ids[keep])

    @staticmethod
    def empty() -> "Detections":
        """No detections."""
        return Detections(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        )


@dataclass(frozen=True, eq=False)
class Tracks:
    """The tracks of one frame: confirmed and seen (or predicted for at most a few frames).

    Attributes:
        track_id: int64 (n,), from 1, unique within a session, never reused.
        xyxy: float32 (n, 4), pixels of the frame.
        scores: float32 (n,), of the last detection that matched.
        class_ids: int64 (n,).
        ended: int64 (m,), ids of tracks that ended with this frame; they are in no later frame.
    """

    track_id: I64
    xyxy: F32
    scores: F32
    class_ids: I64
    ended: I64

    def __post_init__(self) -> None:
        _same_length(
            track_id=self.track_id,
            xyxy=self.xyxy,
            scores=self.scores,
            class_ids=self.class_ids,
        )

    def __len__(self) -> int:
        return int(self.track_id.shape[0])

    @staticmethod
    def empty() -> "Tracks":
        """No tracks, none ended."""
        no_ids = np.zeros(0, np.int64)
        return Tracks(no_ids, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), no_ids, no_ids)


BIRTH: Final = 0
REFRESH: Final = 1
DEATH: Final = 2


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Appearance codes that one frame gave.

    Attributes:
        track_id: int64 (n,).
        codes: int8 (n, d); unit vectors times 127, d <= 128.
        reasons: uint8 (n,): ``BIRTH``, ``REFRESH`` or ``DEATH`` of the track.
    """

    track_id: I64
    codes: I8
    reasons: NDArray[np.uint8]

    def __post_init__(self) -> None:
        _same_length(track_id=self.track_id, codes=self.codes, reasons=self.reasons)

    def __len__(self) -> int:
        return int(self.track_id.shape[0])

    @staticmethod
    def empty(size: int = 128) -> "Embeddings":
        """No codes."""
        return Embeddings(
            np.zeros(0, np.int64), np.zeros((0, size), np.int8), np.zeros(0, np.uint8)
        )


@dataclass(frozen=True)
class Event:
    """One thing that a rule saw.

    Attributes:
        kind: ``LINE_CROSSED``, ``OUT_OF_BOUNDS``, ``CAMERA_ONLINE``, ...
        frame_index: Frame of the session that decided it.
        timestamp_s: Capture time of that frame, seconds since the Unix epoch.
        rule: Name of the line or zone, or empty.
        track_id: Or -1.
        class_id: Or -1.
        class_name: Or empty.
        score: Of the detection, 0 to 1.
        xyxy: Box in pixels of the frame, or None.
        attributes: Details by kind, e.g. ``{"direction": "in"}``.
    """

    kind: str
    frame_index: int
    timestamp_s: float
    rule: str = ""
    track_id: int = -1
    class_id: int = -1
    class_name: str = ""
    score: float = 0.0
    xyxy: tuple[float, float, float, float] | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES)


@dataclass(frozen=True, eq=False)
class FrameResult:
    """All that the pipeline says about one frame: what is shipped.

    Attributes:
        width, height: Of the frame, pixels.
        crops: JPEG for each of ``events``, empty for those whose rule asks for none; or ``()``.
        is_detected: Whether the detector ran on this frame (the gate may skip it).
        model_digest: Artifact that saw it, empty without one.
    """

    frame_index: int
    timestamp_s: float
    width: int
    height: int
    tracks: Tracks
    embeddings: Embeddings
    events: tuple[Event, ...] = ()
    crops: tuple[bytes, ...] = ()
    is_detected: bool = False
    model_digest: str = ""

    def __post_init__(self) -> None:
        if len(self.crops) not in (0, len(self.events)):
            raise InvalidInput(f"{len(self.events)} events have {len(self.crops)} crops")
