"""Stills of tracks: one row each, the picture itself is a blob.

Every function works within the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from camcloud.store.data_tables import crops


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
    """Stores rows; one of the same track and frame is already there and stays."""
    if stills:
        rows = [asdict(still) for still in stills]
        connection.execute(insert(crops).on_conflict_do_nothing(), rows)


def of_track(connection: Connection, track_key: int) -> list[StoredCrop]:
    """Stills of a track, oldest first."""
    columns = [column for column in crops.c if column.name != "id"]
    statement = select(*columns).where(crops.c.track_key == track_key).order_by(crops.c.id)
    return [StoredCrop(**row) for row in connection.execute(statement).mappings()]
