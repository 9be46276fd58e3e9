"""``encode_batch`` and ``decode_batch``: frame results to a serialized ``Batch`` and back.

Only this package and the servicers touch generated classes. What decodes has been checked: finite
numbers, counts that fit, boxes and times in range; anything else is :class:`DataCorrupted`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from camproto.v1 import data_pb2
from camsdk.errors import DataCorrupted, InvalidInput
from camsdk.vision.results import Event, FrameResult
from camsdk.wire.tracks import (
    EmbeddingColumns,
    TrackColumns,
    decode_embeddings,
    decode_tracks,
    encode_embeddings,
    encode_tracks,
)

MAX_PAYLOAD_BYTES: Final = 4 << 20
"""A batch is a few kB; with crops some hundred. More is abuse."""

MAX_EVENTS: Final = 4096
"""In one batch, of events and of stills each. An empty one is a few bytes, its value a kB."""

MAX_TIMESTAMP_S: Final = 1 << 35
_KINDS: Final = ("tracks", "embeddings", "events", "crops")


@dataclass(frozen=True)
class ShippedEvent:
    """An event with its place in the device's order.

    Attributes:
        epoch: Life of the outbox that numbered it.
        sequence: 1, 2, 3, ... without a gap within (device, epoch).
        camera_id: Camera that saw it.
        session: Opening of the camera's source.
        event: What was seen.
    """

    epoch: int
    sequence: int
    camera_id: str
    session: int
    event: Event


@dataclass(frozen=True, eq=False)
class Crop:
    """A still of one track.

    Attributes:
        track_id: The track.
        frame_index: The frame.
        timestamp_s: Capture time of the frame, seconds since the Unix epoch.
        jpeg: The picture.
        event_sequence: Event that asked for it, 0 for none.
    """

    track_id: int
    frame_index: int
    timestamp_s: float
    jpeg: bytes
    event_sequence: int = 0


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """A batch as value types.

    Attributes:
        camera_id: Camera that saw it.
        session: Opening of the camera's source; ``track_id`` is unique within it.
        width, height: Of the camera's frame, pixels.
        model_digest: Artifact that saw these frames, empty without one.
        tracks: Tracks, row by row.
        embeddings: Appearance codes.
        events: In order of sequence.
        crops: Stills that rules asked for.
        bytes_by_kind: Size of the payload by ``tracks``, ``embeddings``, ``events``, ``crops`` and
            ``envelope`` (the rest); sums to the payload's size.
    """

    camera_id: str
    session: int
    width: int
    height: int
    model_digest: str
    tracks: TrackColumns
    embeddings: EmbeddingColumns
    events: tuple[ShippedEvent, ...]
    crops: tuple[Crop, ...]
    bytes_by_kind: Mapping[str, int]


def event_to_message(shipped: ShippedEvent) -> data_pb2.Event:
    """The protocol's form of an event."""
    event = shipped.event
    return data_pb2.Event(
        epoch=shipped.epoch,
        sequence=shipped.sequence,
        kind=event.kind,
        camera_id=shipped.camera_id,
        session=shipped.session,
        frame_index=event.frame_index,
        timestamp_s=event.timestamp_s,
        rule=event.rule,
        track_id=event.track_id,
        class_id=event.class_id,
        class_name=event.class_name,
        score=event.score,
        xyxy=event.xyxy or (),
        attributes=dict(event.attributes),
    )


def event_from_message(message: data_pb2.Event) -> ShippedEvent:
    """Value type of a protocol event.

    Raises:
        DataCorrupted: A number that is not finite or out of range, or a box of another length.
    """
    numbers = [message.timestamp_s, message.score, *message.xyxy]
    if not all(map(math.isfinite, numbers)) or abs(message.timestamp_s) > MAX_TIMESTAMP_S:
        raise DataCorrupted("an event has a number that is not finite or out of range")
    if len(message.xyxy) not in (0, 4) or not message.kind or not message.sequence:
        raise DataCorrupted("an event lacks its kind or sequence, or its box is malformed")
    x1, y1, x2, y2 = message.xyxy or (0.0,) * 4
    event = Event(
        kind=message.kind,
        frame_index=message.frame_index,
        timestamp_s=message.timestamp_s,
        rule=message.rule,
        track_id=message.track_id,
        class_id=message.class_id,
        class_name=message.class_name,
        score=message.score,
        xyxy=(x1, y1, x2, y2) if message.xyxy else None,
        attributes=dict(message.attributes),
    )
    return ShippedEvent(message.epoch, message.sequence, message.camera_id, message.session, event)


def encode_batch(
    results: Sequence[FrameResult],
    *,
    camera_id: str,
    session: int,
    epoch: int,
    first_event_sequence: int,
    crops: Iterable[Crop] = (),
) -> bytes:
    """Serializes consecutive frame results of one session.

    Args:
        results: At least one; all with one frame size and one model digest.
        camera_id: Camera that saw them.
        session: Opening of the camera's source.
        epoch: Life of the outbox.
        first_event_sequence: Of the first event; the rest follow without a gap.
        crops: Stills that rules asked for.

    Raises:
        InvalidInput: No results, a mix of frame sizes or models, or a digest that is not hex.
    """
    if not results:
        raise InvalidInput("a batch needs at least one frame")
    if len({(r.width, r.height, r.model_digest) for r in results}) != 1:
        raise InvalidInput("a batch mixes frame sizes or models", "start a new batch at a change")
    events = (event for result in results for event in result.events)
    first = results[0]
    batch = data_pb2.Batch(
        camera_id=camera_id,
        session=session,
        width=first.width,
        height=first.height,
        first_frame_index=first.frame_index,
        first_timestamp_s=first.timestamp_s,
        frame_count=len(results),
        track_row_count=sum(len(r.tracks) for r in results),
        tracks=encode_tracks(results),
        embedding_count=sum(len(r.embeddings) for r in results),
        embeddings=encode_embeddings(results),
        events=[
            event_to_message(ShippedEvent(epoch, sequence, camera_id, session, event))
            for sequence, event in enumerate(events, first_event_sequence)
        ],
        crops=[
            data_pb2.Crop(
                track_id=crop.track_id,
                frame_index=crop.frame_index,
                timestamp_s=crop.timestamp_s,
                jpeg=crop.jpeg,
                event_sequence=crop.event_sequence,
            )
            for crop in crops
        ],
        model_digest=_digest_bytes(first.model_digest),
    )
    payload: bytes = batch.SerializeToString()
    return payload


def _digest_bytes(digest: str) -> bytes:
    """Half the bytes of the hex form, in every batch."""
    try:
        return bytes.fromhex(digest)
    except ValueError as error:
        raise InvalidInput(f"the model's digest {digest[:80]!r} is not hex") from error


def decode_batch(payload: bytes) -> DecodedBatch:
    """Parses and checks a serialized ``Batch``.

    Raises:
        DataCorrupted: It is none, or holds values that are not finite, out of range or that
            contradict each other.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DataCorrupted(f"a batch has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
    try:
        batch = data_pb2.Batch.FromString(payload)
    except DecodeError as error:
        raise DataCorrupted("a batch does not parse") from error
    is_time = math.isfinite(batch.first_timestamp_s)
    if not is_time or abs(batch.first_timestamp_s) > MAX_TIMESTAMP_S or not batch.camera_id:
        raise DataCorrupted("a batch has no camera or no sane time")
    if max(len(batch.events), len(batch.crops)) > MAX_EVENTS:
        raise DataCorrupted(f"a batch has more than {MAX_EVENTS} events or stills")
    tracks = decode_tracks(batch.tracks, batch.first_frame_index, batch.first_timestamp_s)
    embeddings = decode_embeddings(batch.embeddings, tracks.frame_index.size)
    counts = (tracks.frame_index.size, tracks.track_id.size, embeddings.track_id.size)
    if counts != (batch.frame_count, batch.track_row_count, batch.embedding_count):
        raise DataCorrupted("a batch's stated counts differ from its columns")
    return DecodedBatch(
        camera_id=batch.camera_id,
        session=batch.session,
        width=batch.width,
        height=batch.height,
        model_digest=batch.model_digest.hex(),
        tracks=tracks,
        embeddings=embeddings,
        events=tuple(event_from_message(message) for message in batch.events),
        crops=tuple(
            Crop(c.track_id, c.frame_index, c.timestamp_s, c.jpeg, c.event_sequence)
            for c in batch.crops
        ),
        bytes_by_kind=bytes_by_kind(batch, len(payload)),
    )


def bytes_by_kind(batch: data_pb2.Batch, payload_size_bytes: int) -> dict[str, int]:
    """Splits a payload's size by what it carries; ``envelope`` is what no kind accounts for."""
    sizes = dict.fromkeys(_KINDS, 0)
    for kind in _KINDS:
        part = data_pb2.Batch()
        value = getattr(batch, kind)
        if isinstance(value, bytes):
            setattr(part, kind, value)
        else:
            getattr(part, kind).extend(value)
        sizes[kind] = part.ByteSize()
    return sizes | {"envelope": payload_size_bytes - sum(sizes.values())}
