"""The ``tracks`` and ``embeddings`` columns of a batch.

Layout of ``tracks``, all numbers zigzag varints, F frames, N rows (a track in a frame), E endings::

    F | index step, time step (us), rows, endings, is_detected         five columns of F
      | track id, class, x, y, width, height, score                    seven columns of N
      | ended track id                                                 one column of E

Row ids are differences within the frame; the other row columns are differences to the same track's
previous row in the batch, so a track that moves evenly costs a few bits a frame. Boxes are in half
pixels (error <= 0.25 px) and scores in 64ths (error <= 1/128).

Layout of ``embeddings``: varints ``n, d | frame, track id, reason`` (three columns of n), preceded
by their length in four bytes, then the int8 codes row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camsdk.errors import DataCorrupted, InvalidInput
from camsdk.vision.results import F32, I8, I64, Embeddings, FrameResult
from camsdk.wire import columns

BOX_UNIT_PX: Final = 0.5
SCORE_STEPS: Final = 64
MAX_FRAMES: Final = 4096
MAX_ROWS: Final = 1 << 18
MAX_COORDINATE_PX: Final = 1 << 16
MAX_CODE_SIZE: Final = 128
MAX_SPAN_S: Final = 86_400.0
_FRAME_COLUMNS: Final = 5
_ROW_COLUMNS: Final = 7
_US: Final = 1e6


@dataclass(frozen=True, eq=False)
class TrackColumns:
    """Tracks of a batch, row by row.

    Attributes:
        frame_index: int64 (F,).
        timestamp_s: float64 (F,), exact to a microsecond.
        is_detected: bool (F,).
        row_frame: int64 (N,), position of a row's frame in ``frame_index``.
        track_id, class_ids: int64 (N,).
        xyxy: float32 (N, 4), pixels, in steps of ``BOX_UNIT_PX``.
        scores: float32 (N,), in steps of 1 / ``SCORE_STEPS``.
        ended_frame, ended: int64 (E,), position of the frame, id of the track that ended.
    """

    frame_index: I64
    timestamp_s: NDArray[np.float64]
    is_detected: NDArray[np.bool_]
    row_frame: I64
    track_id: I64
    class_ids: I64
    xyxy: F32
    scores: F32
    ended_frame: I64
    ended: I64


@dataclass(frozen=True, eq=False)
class EmbeddingColumns:
    """Appearance codes of a batch.

    Attributes:
        frame: int64 (n,), position of the frame in ``TrackColumns.frame_index``.
        track_id: int64 (n,).
        reasons: uint8 (n,), ``BIRTH``, ``REFRESH`` or ``DEATH``.
        codes: int8 (n, d).
    """

    frame: I64
    track_id: I64
    reasons: NDArray[np.uint8]
    codes: I8


def _groups(track_id: I64, row_frame: I64) -> tuple[I64, NDArray[np.bool_]]:
    order = np.lexsort((row_frame, track_id)).astype(np.int64)
    ids = track_id[order]
    is_start = np.ones(ids.size, np.bool_)
    is_start[1:] = ids[1:] != ids[:-1]
    return order, is_start


def _row_columns(results: Sequence[FrameResult], counts: I64) -> list[I64]:
    row_frame = np.repeat(np.arange(counts.size), counts)
    track_id = np.concatenate([r.tracks.track_id for r in results])
    by_id = np.lexsort((track_id, row_frame))
    track_id = track_id[by_id]
    xyxy = np.concatenate([r.tracks.xyxy for r in results])[by_id].astype(np.float64)
    scores = np.concatenate([r.tracks.scores for r in results])[by_id]
    class_ids = np.concatenate([r.tracks.class_ids for r in results])[by_id]
    if not (np.isfinite(xyxy).all() and np.isfinite(scores).all()):
        raise InvalidInput("a track has a box or score that is not a finite number")
    # A source may predict a box far out of the picture; what is shipped stays in range.
    limit = MAX_COORDINATE_PX
    corners = np.rint(np.clip(xyxy, -limit, limit) / BOX_UNIT_PX).astype(np.int64)
    steps = np.rint(np.clip(scores, 0, 1) * SCORE_STEPS).astype(np.int64)
    order, is_start = _groups(track_id, row_frame)
    x1, y1, x2, y2 = corners.T
    by_track = [class_ids, x1, y1, x2 - x1, y2 - y1, steps]
    frame_start = np.ones(row_frame.size, np.bool_)
    frame_start[1:] = row_frame[1:] != row_frame[:-1]
    identity = np.arange(row_frame.size)
    return [
        columns.delta_in_groups(track_id, identity, frame_start),
        *(columns.delta_in_groups(column, order, is_start) for column in by_track),
    ]


def encode_tracks(results: Sequence[FrameResult]) -> bytes:
    """Packs the tracks of consecutive frames of one session; rows of a frame are sorted by id."""
    index = np.array([r.frame_index for r in results], np.int64)
    start_s = results[0].timestamp_s
    time_us = np.rint([(r.timestamp_s - start_s) * _US for r in results]).astype(np.int64)
    counts = np.array([len(r.tracks) for r in results], np.int64)
    endings = np.array([r.tracks.ended.size for r in results], np.int64)
    is_detected = np.array([r.is_detected for r in results], np.int64)
    parts = [
        np.array([len(results)], np.int64),
        np.diff(index, prepend=index[0]),
        np.diff(time_us, prepend=0),
        counts,
        endings,
        is_detected,
        *_row_columns(results, counts),
        *(r.tracks.ended for r in results),
    ]
    return columns.pack(columns.encode_varints(np.concatenate(parts)))


def decode_tracks(block: bytes, first_index: int, first_timestamp_s: float) -> TrackColumns:
    """Inverse of :func:`encode_tracks`.

    Raises:
        DataCorrupted: Not such a block, or a count, coordinate or score out of range.
    """
    flat = columns.decode_varints(columns.unpack(block))
    frames = int(flat[0]) if flat.size else 0
    if not 0 < frames <= MAX_FRAMES or flat.size < 1 + _FRAME_COLUMNS * frames:
        raise DataCorrupted("a batch's frame count does not fit its columns")
    head = flat[1 : 1 + _FRAME_COLUMNS * frames].reshape(_FRAME_COLUMNS, frames)
    index_step, time_step, counts, endings, is_detected = head
    is_sane = (head[2:] >= 0).all() and (head[2:4] <= MAX_ROWS).all()
    rows, ends = int(counts.sum()), int(endings.sum())
    body = flat[1 + _FRAME_COLUMNS * frames :]
    if not is_sane or body.size != _ROW_COLUMNS * rows + ends or max(rows, ends) > MAX_ROWS:
        raise DataCorrupted("a batch's row counts do not fit its columns")
    table = body[: _ROW_COLUMNS * rows].reshape(_ROW_COLUMNS, rows)
    row_frame = np.repeat(np.arange(frames), counts)
    track_id, class_ids, xyxy, scores = _decode_rows(table, row_frame)
    timestamp_s = first_timestamp_s + np.cumsum(time_step) / _US
    if (np.abs(timestamp_s - first_timestamp_s) > MAX_SPAN_S).any():
        raise DataCorrupted("a batch spans an impossible time")
    return TrackColumns(
        frame_index=first_index + np.cumsum(index_step),
        timestamp_s=timestamp_s,
        is_detected=is_detected != 0,
        row_frame=row_frame,
        track_id=track_id,
        class_ids=class_ids,
        xyxy=xyxy,
        scores=scores,
        ended_frame=np.repeat(np.arange(frames), endings),
        ended=body[_ROW_COLUMNS * rows :].copy(),  # a view would keep the whole block alive
    )


def _decode_rows(table: I64, row_frame: I64) -> tuple[I64, I64, F32, F32]:
    frame_start = np.ones(row_frame.size, np.bool_)
    frame_start[1:] = row_frame[1:] != row_frame[:-1]
    track_id = columns.sum_in_groups(table[0], np.arange(row_frame.size), frame_start)
    order, is_start = _groups(track_id, row_frame)
    class_ids, x, y, width, height, steps = (
        columns.sum_in_groups(column, order, is_start) for column in table[1:]
    )
    corners = np.stack([x, y, x + width, y + height], axis=1)
    # Compared without abs(), which the most negative number survives unchanged.
    limit = int(MAX_COORDINATE_PX / BOX_UNIT_PX)
    is_box = ((corners >= -limit) & (corners <= limit)).all()
    if not is_box or not ((steps >= 0) & (steps <= SCORE_STEPS)).all():
        raise DataCorrupted("a batch has a box or score out of range")
    return (
        track_id,
        class_ids,
        (corners * BOX_UNIT_PX).astype(np.float32),
        (steps / SCORE_STEPS).astype(np.float32),
    )


def encode_embeddings(results: Sequence[FrameResult]) -> bytes:
    """Packs the appearance codes of consecutive frames; empty when there are none.

    Raises:
        InvalidInput: Codes of different sizes, or larger than ``MAX_CODE_SIZE``.
    """
    found: list[tuple[int, Embeddings]] = [
        (position, r.embeddings) for position, r in enumerate(results) if len(r.embeddings)
    ]
    if not found:
        return b""
    sizes = {embeddings.codes.shape[1] for _, embeddings in found}
    if len(sizes) != 1 or max(sizes) > MAX_CODE_SIZE:
        raise InvalidInput(
            f"appearance codes have sizes {sorted(sizes)}", f"use one, at most {MAX_CODE_SIZE}"
        )
    codes = np.concatenate([embeddings.codes for _, embeddings in found])
    header = np.concatenate(
        [
            np.array(codes.shape, np.int64),
            np.repeat([p for p, _ in found], [len(e) for _, e in found]),
            np.concatenate([e.track_id for _, e in found]),
            np.concatenate([e.reasons for _, e in found]).astype(np.int64),
        ]
    )
    numbers = columns.encode_varints(header)
    return columns.pack(len(numbers).to_bytes(4, "little") + numbers + codes.tobytes())


def decode_embeddings(block: bytes, frame_count: int) -> EmbeddingColumns:
    """Inverse of :func:`encode_embeddings`.

    Raises:
        DataCorrupted: Not such a block, or a frame or reason out of range.
    """
    if not block:
        empty = Embeddings.empty()
        return EmbeddingColumns(empty.track_id, empty.track_id, empty.reasons, empty.codes)
    data = columns.unpack(block)
    end = 4 + int.from_bytes(data[:4], "little")
    numbers = columns.decode_varints(data[4:end])
    count, size = (int(numbers[0]), int(numbers[1])) if numbers.size >= 2 else (-1, -1)
    is_sane = 0 < count <= MAX_ROWS and 0 < size <= MAX_CODE_SIZE
    if not is_sane or numbers.size != 2 + 3 * count or len(data) - end != count * size:
        raise DataCorrupted("a batch's appearance codes do not fit their counts")
    frame, track_id, reasons = numbers[2:].reshape(3, count)
    if (frame < 0).any() or (frame >= frame_count).any() or not np.isin(reasons, (0, 1, 2)).all():
        raise DataCorrupted("an appearance code names no frame of its batch")
    codes = np.frombuffer(data, np.int8, count * size, end).reshape(count, size)
    return EmbeddingColumns(frame, track_id, reasons.astype(np.uint8), codes)
