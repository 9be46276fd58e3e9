"""Codec between value types and protocol messages; the only SDK part that sees generated code."""

from camsdk.wire.batch import (
    MAX_PAYLOAD_BYTES,
    Crop,
    DecodedBatch,
    ShippedEvent,
    bytes_by_kind,
    decode_batch,
    encode_batch,
    event_from_message,
    event_to_message,
)
from camsdk.wire.tracks import EmbeddingColumns, TrackColumns

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "Crop",
    "DecodedBatch",
    "EmbeddingColumns",
    "ShippedEvent",
    "TrackColumns",
    "bytes_by_kind",
    "decode_batch",
    "encode_batch",
    "event_from_message",
    "event_to_message",
]
