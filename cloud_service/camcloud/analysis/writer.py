"""``write``: a group of batches into the store, in one transaction, each batch once.

The cursor of each (device, epoch) is read and moved in that same transaction: whatever the bus
delivers again after a crash is recognised, and what never came is counted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from camcloud.analysis.screen import Screened, without_repetitions
from camcloud.bus import Delivery
from camcloud.store import crops, embeddings, events, ingest, tracks
from camcloud.store.events import StoredEvent
from camcloud.vectors import CODE_SIZE
from camsdk.wire import Crop, DecodedBatch


@dataclass(frozen=True)
class Refused:
    """A batch that must not be stored.

    Attributes:
        delivery: As it came.
        reason: Why, one sentence.
    """

    delivery: Delivery
    reason: str


@dataclass
class Written:
    """What a transaction has added.

    Attributes:
        events: New events, by cursor.
        embedding_ids: int64 arrays, ids of new codes, ascending over all.
        codes: int8 arrays, (n, 128) each, the codes with those ids.
        batch_count: Batches that were stored or set aside.
        duplicate_count: Batches that were already stored.
        refused: Batches that were set aside.
    """

    events: list[StoredEvent] = field(default_factory=list)
    embedding_ids: list[NDArray[np.int64]] = field(default_factory=list)
    codes: list[NDArray[np.int8]] = field(default_factory=list)
    batch_count: int = 0
    duplicate_count: int = 0
    refused: list[Refused] = field(default_factory=list)


def crop_key(delivery: Delivery, session: int, crop: Crop) -> str:
    """Blob key of a still: the same for the same still, so that storing it twice is harmless."""
    mark = hashlib.sha256(crop.jpeg).hexdigest()[:16]
    place = f"crops/{delivery.device_id}/{delivery.epoch}"
    return f"{place}/{session}-{crop.track_id}-{crop.frame_index}-{mark}.jpg"


def write(connection: Connection, group: Sequence[Screened | Refused]) -> Written:
    """Stores the batches of a group that are new, in order."""
    written = Written()
    cursors: dict[tuple[str, int], ingest.Cursor] = {}
    stats: dict[tuple[str, str], ingest.Stats] = {}
    for item in group:
        delivery = item.delivery
        lane = (delivery.device_id, delivery.epoch)
        if lane not in cursors:
            cursors[lane] = ingest.read_cursor(connection, *lane)
        cursor = cursors[lane]
        if delivery.sequence <= cursor.batch_sequence:
            cursors[lane] = replace(cursor, duplicate_batch_count=cursor.duplicate_batch_count + 1)
            written.duplicate_count += 1
            continue
        written.batch_count += 1
        lost = delivery.sequence - cursor.batch_sequence - 1
        cursor = replace(
            cursor,
            batch_sequence=delivery.sequence,
            lost_batch_count=cursor.lost_batch_count + lost,
        )
        if isinstance(item, Refused):
            _set_aside(connection, item)
            written.refused.append(item)
        else:
            cursor, brought = _write_batch(connection, item, cursor, written)
            camera = (delivery.device_id, item.batch.camera_id)
            stats[camera] = stats.get(camera, ingest.Stats()) + brought
        cursors[lane] = cursor
    ingest.add_stats(connection, stats)
    for (device_id, epoch), cursor in cursors.items():
        ingest.write_cursor(connection, device_id, epoch, cursor)
    return written


def _write_batch(
    connection: Connection, item: Screened, cursor: ingest.Cursor, written: Written
) -> tuple[ingest.Cursor, ingest.Stats]:
    delivery, batch = item.delivery, item.batch
    fresh, missing = without_repetitions(batch.events, cursor.event_sequence)
    written.events += events.append(
        connection,
        delivery.device_id,
        delivery.fleet,
        fresh,
        received_timestamp_s=delivery.received_timestamp_s,
        model_digest=batch.model_digest,
    )
    scene = tracks.Scene(delivery.device_id, delivery.epoch, batch.camera_id, batch.session)
    tracks.grow(connection, scene, delivery.fleet, item.sightings)
    code_count = _write_codes(connection, item, scene, written)
    _write_crops(connection, item, scene)
    cursor = replace(
        cursor,
        event_sequence=fresh[-1].sequence if fresh else cursor.event_sequence,
        lost_event_count=cursor.lost_event_count + missing,
    )
    return cursor, _stats(batch, len(fresh), code_count, item.refused_row_count)


def _write_codes(
    connection: Connection, item: Screened, scene: tracks.Scene, written: Written
) -> int:
    columns = item.batch.embeddings
    rows = np.flatnonzero(item.is_code_good).tolist()
    if not rows:
        return 0
    track_ids = columns.track_id.tolist()
    keys = tracks.keys_of(connection, scene, {track_ids[row] for row in rows})
    frames = item.batch.tracks
    new = [
        embeddings.NewCode(
            track_key=keys[track_ids[row]],
            frame_index=int(frames.frame_index[columns.frame[row]]),
            timestamp_s=float(frames.timestamp_s[columns.frame[row]]),
            reason=int(columns.reasons[row]),
            code=columns.codes[row].tobytes(),
        )
        for row in rows
    ]
    written.embedding_ids.append(embeddings.append(connection, item.delivery.fleet, new))
    written.codes.append(columns.codes[rows].reshape(len(rows), CODE_SIZE))
    return len(rows)


def _write_crops(connection: Connection, item: Screened, scene: tracks.Scene) -> None:
    if not item.crops:
        return
    keys = tracks.keys_of(connection, scene, {crop.track_id for crop in item.crops})
    stills = [
        crops.StoredCrop(
            track_key=keys[crop.track_id],
            event_sequence=crop.event_sequence,
            frame_index=crop.frame_index,
            timestamp_s=crop.timestamp_s,
            blob_key=crop_key(item.delivery, scene.session, crop),
            size_bytes=len(crop.jpeg),
        )
        for crop in item.crops
    ]
    crops.append(connection, stills)


def _stats(
    batch: DecodedBatch, event_count: int, code_count: int, refused_row_count: int
) -> ingest.Stats:
    sizes = batch.bytes_by_kind
    return ingest.Stats(
        batch_count=1,
        frame_count=int(batch.tracks.frame_index.size),
        event_count=event_count,
        embedding_count=code_count,
        refused_row_count=refused_row_count,
        track_bytes=sizes["tracks"],
        embedding_bytes=sizes["embeddings"],
        event_bytes=sizes["events"],
        crop_bytes=sizes["crops"],
        envelope_bytes=sizes["envelope"],
    )


def _set_aside(connection: Connection, item: Refused) -> None:
    delivery = item.delivery
    batch = ingest.Quarantined(
        device_id=delivery.device_id,
        fleet=delivery.fleet,
        epoch=delivery.epoch,
        sequence=delivery.sequence,
        reason=item.reason,
        payload=delivery.payload,
        received_timestamp_s=delivery.received_timestamp_s,
    )
    ingest.set_aside(connection, batch)
