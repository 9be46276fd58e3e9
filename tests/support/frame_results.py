"""Frame results made to order."""

from dataclasses import dataclass, field

import numpy as np

from camsdk.vision.results import LINE_CROSSED, Embeddings, Event, FrameResult, Tracks


def tracks(count: int, first_id: int = 1) -> Tracks:
    """``count`` tracks side by side, 20 x 40 pixels each."""
    left = np.arange(count, dtype=np.float32) * 25
    xyxy = np.stack([left, left, left + 20, left + 40], axis=1)
    return Tracks(
        track_id=np.arange(first_id, first_id + count, dtype=np.int64),
        xyxy=xyxy.astype(np.float32),
        scores=np.full(count, 0.75, np.float32),
        class_ids=np.zeros(count, np.int64),
        ended=np.zeros(0, np.int64),
    )


def frame_result(
    index: int, *, event_count: int = 0, track_count: int = 2, digest: str = "", width: int = 768
) -> FrameResult:
    """The result of frame ``index`` of a 10 fps recording that started at second 1,000."""
    timestamp_s = 1000 + index / 10
    return FrameResult(
        frame_index=index,
        timestamp_s=timestamp_s,
        width=width,
        height=576,
        tracks=tracks(track_count),
        embeddings=Embeddings.empty(),
        events=tuple(
            Event(LINE_CROSSED, index, timestamp_s, rule=f"line-{number}", track_id=1, class_id=0)
            for number in range(event_count)
        ),
        is_detected=True,
        model_digest=digest,
    )


@dataclass
class Recorder:
    """A sink that keeps everything."""

    results: list[FrameResult] = field(default_factory=list)

    def put(self, result: FrameResult) -> None:
        """Take the next result."""
        self.results.append(result)


def assert_same_results(first: list[FrameResult], second: list[FrameResult]) -> None:
    """Bit for bit."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        plain = ("frame_index", "timestamp_s", "width", "height", "is_detected", "model_digest")
        assert [getattr(one, n) for n in plain] == [getattr(other, n) for n in plain]
        assert one.events == other.events
        for name in ("track_id", "xyxy", "scores", "class_ids", "ended"):
            a, b = getattr(one.tracks, name), getattr(other.tracks, name)
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes()
        for name in ("track_id", "codes", "reasons"):
            a, b = getattr(one.embeddings, name), getattr(other.embeddings, name)
            assert a.tobytes() == b.tobytes()
