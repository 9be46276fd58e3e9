"""Tracks: one row each, that grows as batches arrive.

Every function works within the caller's transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, RowMapping, bindparam, case, func, select
from sqlalchemy.dialects.sqlite import Insert, insert

from camcloud.store.data_tables import tracks
from camsdk.wire import TrackColumns

MAX_PAGE: Final = 1000
"""Most tracks of one page."""

NO_CLASS: Final = -1


@dataclass(frozen=True)
class Scene:
    """Where track ids are unique.

    Attributes:
        device_id: Device.
        epoch: Life of its outbox.
        camera_id: Camera of the device.
        session: Opening of the camera's source.
    """

    device_id: str
    epoch: int
    camera_id: str
    session: int


@dataclass(frozen=True)
class Sighting:
    """What one batch says of one track.

    Attributes:
        track_id: Unique within the scene.
        class_id: Of the last row, ``NO_CLASS`` if no box came.
        first_timestamp_s, last_timestamp_s: Capture times, seconds since the Unix epoch.
        frame_count: Frames with a box.
        xyxy: Last box, pixels, or None if no box came.
    """

    track_id: int
    class_id: int
    first_timestamp_s: float
    last_timestamp_s: float
    frame_count: int
    xyxy: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class StoredTrack:
    """A track as the cloud keeps it.

    Attributes:
        key: Row of the track.
        scene: Where its id is unique.
        fleet: The device's fleet when the track began.
        sighting: All that batches said of it, together.
    """

    key: int
    scene: Scene
    fleet: str
    sighting: Sighting


@dataclass(frozen=True)
class TrackQuery:
    """Which tracks; an empty field means any.

    Attributes:
        device_id: Name of a device.
        camera_id: Name of a camera.
        since_s, until_s: Capture time, seconds since the Unix epoch: tracks that were seen within,
            at least in part; 0 is open.
    """

    device_id: str = ""
    camera_id: str = ""
    since_s: float = 0.0
    until_s: float = 0.0


def _grow_statement() -> Insert:
    statement = insert(tracks)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["device_id", "epoch", "camera_id", "session", "track_id"],
        set_={
            "first_timestamp_s": func.min(tracks.c.first_timestamp_s, new.first_timestamp_s),
            "frame_count": tracks.c.frame_count + new.frame_count,
            # A code alone (of a track that has just been lost) says nothing of these.
            **{
                name: case((new.x1.is_not(None), new[name]), else_=tracks.c[name])
                for name in ("class_id", "last_timestamp_s", "x1", "y1", "x2", "y2")
            },
        },
    )


_GROW: Final = _grow_statement()  # building it costs ten times what running it does
_KEYS: Final = select(tracks.c.track_id, tracks.c.id).where(
    *(tracks.c[name] == bindparam(name) for name in ("device_id", "epoch", "camera_id", "session")),
    tracks.c.track_id.in_(bindparam("track_ids", expanding=True)),
)


def summarise(columns: TrackColumns) -> list[Sighting]:
    """One sighting for each track in a batch's columns."""
    if not columns.track_id.size:
        return []
    order = np.lexsort((columns.row_frame, columns.track_id))
    ids, starts, counts = np.unique(columns.track_id[order], return_index=True, return_counts=True)
    first = columns.row_frame[order[starts]]
    last_row = order[starts + counts - 1]
    return [
        Sighting(track_id, class_id, first_s, last_s, count, (x1, y1, x2, y2))
        for track_id, class_id, first_s, last_s, count, (x1, y1, x2, y2) in zip(
            ids.tolist(),
            columns.class_ids[last_row].tolist(),
            columns.timestamp_s[first].tolist(),
            columns.timestamp_s[columns.row_frame[last_row]].tolist(),
            counts.tolist(),
            columns.xyxy[last_row].tolist(),
            strict=True,
        )
    ]


def grow(connection: Connection, scene: Scene, fleet: str, sightings: Sequence[Sighting]) -> None:
    """Adds sightings, in order of time, to their tracks, which are made if missing."""
    if sightings:
        connection.execute(_GROW, [_row(scene, fleet, sighting) for sighting in sightings])


def keys_of(connection: Connection, scene: Scene, track_ids: Iterable[int]) -> Mapping[int, int]:
    """Row of each track by its id, of those that are stored."""
    values = {**_scene_row(scene), "track_ids": list(track_ids)}
    return {row.track_id: row.id for row in connection.execute(_KEYS, values)}


def page(connection: Connection, query: TrackQuery, limit: int = MAX_PAGE) -> list[StoredTrack]:
    """Up to ``limit`` tracks that match, those seen last first."""
    order = (tracks.c.last_timestamp_s.desc(), tracks.c.id.desc())
    statement = select(tracks).order_by(*order).limit(min(limit, MAX_PAGE))
    if query.device_id:
        statement = statement.where(tracks.c.device_id == query.device_id)
    if query.camera_id:
        statement = statement.where(tracks.c.camera_id == query.camera_id)
    if query.since_s:
        statement = statement.where(tracks.c.last_timestamp_s >= query.since_s)
    if query.until_s:
        statement = statement.where(tracks.c.first_timestamp_s <= query.until_s)
    return [stored(row) for row in connection.execute(statement).mappings()]


def stored(row: RowMapping) -> StoredTrack:
    """A row of ``tracks`` as a value."""
    has_box = row["x1"] is not None
    sighting = Sighting(
        track_id=row["track_id"],
        class_id=row["class_id"],
        first_timestamp_s=row["first_timestamp_s"],
        last_timestamp_s=row["last_timestamp_s"],
        frame_count=row["frame_count"],
        xyxy=(row["x1"], row["y1"], row["x2"], row["y2"]) if has_box else None,
    )
    scene = Scene(row["device_id"], row["epoch"], row["camera_id"], row["session"])
    return StoredTrack(row["id"], scene, row["fleet"], sighting)


def _scene_row(scene: Scene) -> dict[str, Any]:
    return {
        "device_id": scene.device_id,
        "epoch": scene.epoch,
        "camera_id": scene.camera_id,
        "session": scene.session,
    }


def _row(scene: Scene, fleet: str, sighting: Sighting) -> dict[str, Any]:
    x1, y1, x2, y2 = sighting.xyxy or (None,) * 4
    return {
        **_scene_row(scene),
        "track_id": sighting.track_id,
        "fleet": fleet,
        "class_id": sighting.class_id,
        "first_timestamp_s": sighting.first_timestamp_s,
        "last_timestamp_s": sighting.last_timestamp_s,
        "frame_count": sighting.frame_count,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
    }
