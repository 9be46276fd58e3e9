"""``screen``: is a batch fit to be stored? Pure; nothing that a device says is trusted.

Two degrees of refusal. A batch whose frame does not hold (it does not decode, a name or number is
out of bounds, it contradicts the stream that brought it) is refused whole. A code or still that is
unusable by itself is left out and counted, and the rest of its batch is stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from camcloud.bus import Delivery
from camcloud.store import embeddings, tracks
from camcloud.store.data_tables import NAME_LENGTH
from camcloud.vectors import CODE_SIZE
from camsdk.errors import DataCorrupted
from camsdk.wire import Crop, DecodedBatch, ShippedEvent, decode_batch

MAX_TRACKS: Final = 4096
"""Tracks in one batch; a crowded square has some hundred."""

MAX_CODES: Final = 4096
MAX_ATTRIBUTES: Final = 32
MAX_CROPS: Final = 256
"""Stills in one batch: each costs two syncs of the disk, and everybody waits for them."""

MAX_CROP_BYTES: Final = 1 << 20

_MAX_INTEGER: Final = 2**63 - 1
_MAX_CROP_AGE_S: Final = 86_400.0
_JPEG_START: Final = b"\xff\xd8\xff"


@dataclass(frozen=True, eq=False)
class Screened:
    """A batch that may be stored.

    Attributes:
        delivery: As it came.
        batch: Decoded.
        sightings: Of every track that the batch speaks of, also by a code or still alone.
        is_code_good: bool (n,), over the batch's codes.
        crops: Stills that may be stored.
        refused_row_count: Codes and stills that were left out.
    """

    delivery: Delivery
    batch: DecodedBatch
    sightings: tuple[tracks.Sighting, ...]
    is_code_good: NDArray[np.bool_]
    crops: tuple[Crop, ...]
    refused_row_count: int

    @property
    def size_bytes(self) -> int:
        """Memory of its columns; it can be thousands of times the payload."""
        columns = (*vars(self.batch.tracks).values(), *vars(self.batch.embeddings).values())
        return sum(column.nbytes for column in columns)


def screen(delivery: Delivery) -> Screened:
    """Decodes and checks a batch.

    Raises:
        DataCorrupted: It must not be stored; the message says why.
    """
    batch = decode_batch(delivery.payload)
    _check_names(batch)
    _check_numbers(batch)
    _check_events(delivery, batch)
    is_code_good = _good_codes(batch)
    crops = tuple(crop for crop in batch.crops if _is_good_crop(crop))
    refused = int((~is_code_good).sum()) + len(batch.crops) - len(crops)
    return Screened(
        delivery=delivery,
        batch=batch,
        sightings=tuple(_sightings(batch, is_code_good, crops)),
        is_code_good=is_code_good,
        crops=crops,
        refused_row_count=refused,
    )


def _check_names(batch: DecodedBatch) -> None:
    names = {batch.camera_id, batch.model_digest}
    for shipped in batch.events:
        event = shipped.event
        names |= {shipped.camera_id, event.kind, event.rule, event.class_name}
        names |= event.attributes.keys() | set(event.attributes.values())
        if len(event.attributes) > MAX_ATTRIBUTES:
            raise DataCorrupted(f"an event has {len(event.attributes)} attributes")
    for name in names:
        # What is not printable could forge lines of a log.
        if len(name) > NAME_LENGTH or not name.isprintable():
            raise DataCorrupted(f"a name is too long or not printable: {name[:40]!r}")


def _check_numbers(batch: DecodedBatch) -> None:
    columns = batch.tracks
    for array in (columns.frame_index, columns.track_id, batch.embeddings.track_id):
        if array.size and array.min() < 0:
            raise DataCorrupted("a frame index or track id is negative")
    if batch.session > _MAX_INTEGER:
        raise DataCorrupted(f"session {batch.session} is out of range")
    if columns.track_id.size and np.unique(columns.track_id).size > MAX_TRACKS:
        raise DataCorrupted(f"a batch speaks of more than {MAX_TRACKS} tracks")
    if batch.embeddings.track_id.size > MAX_CODES:
        raise DataCorrupted(f"a batch has more than {MAX_CODES} codes")
    if len(batch.crops) > MAX_CROPS:
        raise DataCorrupted(f"a batch has more than {MAX_CROPS} stills")
    for crop in batch.crops:
        is_timed = abs(crop.timestamp_s - columns.timestamp_s[0]) <= _MAX_CROP_AGE_S
        is_placed = min(crop.track_id, crop.frame_index) >= 0
        if not is_timed or not is_placed or crop.event_sequence > _MAX_INTEGER:
            raise DataCorrupted("a still has no sane time, track, frame or event")


def _check_events(delivery: Delivery, batch: DecodedBatch) -> None:
    before = 0
    for shipped in batch.events:
        if shipped.epoch != delivery.epoch:
            raise DataCorrupted("an event belongs to another epoch than its batch")
        if (shipped.camera_id, shipped.session) != (batch.camera_id, batch.session):
            raise DataCorrupted("an event belongs to another camera or session than its batch")
        if not before < shipped.sequence <= _MAX_INTEGER:
            raise DataCorrupted("events are out of order")
        before = shipped.sequence


def _good_codes(batch: DecodedBatch) -> NDArray[np.bool_]:
    codes = batch.embeddings.codes
    if codes.shape[1] != CODE_SIZE:
        return np.zeros(codes.shape[0], np.bool_)
    return embeddings.is_unit(codes)


def _is_good_crop(crop: Crop) -> bool:
    return crop.jpeg.startswith(_JPEG_START) and len(crop.jpeg) <= MAX_CROP_BYTES


def _sightings(
    batch: DecodedBatch, is_code_good: NDArray[np.bool_], crops: Iterable[Crop]
) -> list[tracks.Sighting]:
    found = tracks.summarise(batch.tracks)
    known = {sighting.track_id for sighting in found}
    codes = batch.embeddings
    times_s = batch.tracks.timestamp_s[codes.frame[is_code_good]].tolist()
    bare = list(zip(codes.track_id[is_code_good].tolist(), times_s, strict=True))
    bare += [(crop.track_id, crop.timestamp_s) for crop in crops]
    for track_id, timestamp_s in bare:
        if track_id not in known:
            known.add(track_id)
            found.append(
                tracks.Sighting(track_id, tracks.NO_CLASS, timestamp_s, timestamp_s, 0, None)
            )
    return found


def without_repetitions(
    events: Iterable[ShippedEvent], after: int
) -> tuple[list[ShippedEvent], int]:
    """Events beyond sequence ``after``, and how many numbers are missing before or among them."""
    fresh = [shipped for shipped in events if shipped.sequence > after]
    missing = fresh[-1].sequence - after - len(fresh) if fresh else 0
    return fresh, missing
