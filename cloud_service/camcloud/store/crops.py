"""Stills of tracks: one row each, the picture itself is a blob.

Every function works within the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from camcloud.store.data_tables import crops, tracks
from camcloud.store.events import StoredEvent
from camsdk.errors import NotFound

_COLUMNS = [column for column in crops.c if column.name != "id"]


@dataclass(frozen=True)
class StoredCrop:
    """A still of one track.

    Attributes:
        track_key: Row of its track.
        event_sequence: Event of the device that asked for it, 0 for none.
        frame_index: Frame that it was cut from.
        timestamp_s: Capture time of the frame, seconds since the Unix epoch.
        blob_key: Where the JPEG lies.
        size_bytes: Of the JPEG.
    """

    track_key: int
    event_sequence: int
    frame_index: int
    timestamp_s: float
    blob_key: str
    size_bytes: int


def append(connection: Connection, stills: Sequence[StoredCrop]) -> None:
    """Stores rows; one of the same track, frame and event is already there and stays."""
    if stills:
        rows = [asdict(still) for still in stills]
        connection.execute(insert(crops).on_conflict_do_nothing(), rows)


def of_track(connection: Connection, track_key: int) -> list[StoredCrop]:
    """Stills of a track, oldest first."""
    statement = select(*_COLUMNS).where(crops.c.track_key == track_key).order_by(crops.c.id)
    return [StoredCrop(**row) for row in connection.execute(statement).mappings()]


def of_event(connection: Connection, event: StoredEvent) -> StoredCrop:
    """The still that an event's rule asked for.

    Raises:
        NotFound: It asked for none, or the device could not keep it.
    """
    shipped = event.shipped
    statement = (
        select(*_COLUMNS)
        .join(tracks, tracks.c.id == crops.c.track_key)
        .where(
            tracks.c.device_id == event.device_id,
            tracks.c.epoch == shipped.epoch,
            tracks.c.camera_id == shipped.camera_id,
            tracks.c.session == shipped.session,
            tracks.c.track_id == shipped.event.track_id,
            crops.c.event_sequence == shipped.sequence,
        )
        .order_by(crops.c.id)
        .limit(1)
    )
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise NotFound(
            f"event {event.event_id} has no crop",
            "a line or zone sends crops only if its rule says `crops: true`",
        )
    return StoredCrop(**row)
