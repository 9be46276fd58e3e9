"""Events: one row each, read by cursor.

Every function works within the caller's transaction.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, Select, insert, select

from camcloud.store.data_tables import events
from camsdk.errors import InvalidInput, NotFound
from camsdk.vision.results import Event
from camsdk.wire import ShippedEvent

MAX_PAGE: Final = 1000
"""Most events of one page."""

_ID: Final = re.compile(r"(?P<device>[A-Za-z0-9._-]{1,128})/(?P<epoch>\d{1,19})/(?P<seq>\d{1,19})")
_MAX_INTEGER: Final = 2**63 - 1


@dataclass(frozen=True)
class StoredEvent:
    """An event as the cloud keeps it.

    Attributes:
        cursor: Position in the log of events, growing in commit order.
        device_id: Device that shipped it.
        fleet: The device's fleet at that time.
        shipped: The event, with its place in the device's order.
        received_timestamp_s: When the gateway took it, seconds since the Unix epoch.
        model_digest: Artifact that saw it, empty without one.
    """

    cursor: int
    device_id: str
    fleet: str
    shipped: ShippedEvent
    received_timestamp_s: float
    model_digest: str

    @property
    def event_id(self) -> str:
        """``DEVICE/EPOCH/SEQUENCE``."""
        return f"{self.device_id}/{self.shipped.epoch}/{self.shipped.sequence}"


@dataclass(frozen=True)
class EventQuery:
    """Which events; an empty field means any.

    Attributes:
        fleet: Name of a fleet.
        device_id: Name of a device.
        camera_id: Name of a camera.
        kinds: Kinds of events.
        since_s, until_s: Capture time, seconds since the Unix epoch, both inclusive; 0 is open.
    """

    fleet: str = ""
    device_id: str = ""
    camera_id: str = ""
    kinds: frozenset[str] = frozenset()
    since_s: float = 0.0
    until_s: float = 0.0

    def matches(self, stored: StoredEvent) -> bool:
        """As :func:`page` selects, for an event in memory."""
        event = stored.shipped.event
        return (
            self.fleet in ("", stored.fleet)
            and self.device_id in ("", stored.device_id)
            and self.camera_id in ("", stored.shipped.camera_id)
            and (not self.kinds or event.kind in self.kinds)
            and (not self.since_s or event.timestamp_s >= self.since_s)
            and (not self.until_s or event.timestamp_s <= self.until_s)
        )

    def narrow(self, statement: Select[Any]) -> Select[Any]:
        """``statement`` over ``events``, restricted to what matches."""
        for column, wanted in (
            (events.c.fleet, self.fleet),
            (events.c.device_id, self.device_id),
            (events.c.camera_id, self.camera_id),
        ):
            if wanted:
                statement = statement.where(column == wanted)
        if self.kinds:
            statement = statement.where(events.c.kind.in_(sorted(self.kinds)))
        if self.since_s:
            statement = statement.where(events.c.timestamp_s >= self.since_s)
        if self.until_s:
            statement = statement.where(events.c.timestamp_s <= self.until_s)
        return statement


def append(
    connection: Connection,
    device_id: str,
    fleet: str,
    shipped: Sequence[ShippedEvent],
    *,
    received_timestamp_s: float,
    model_digest: str,
) -> list[StoredEvent]:
    """Stores new events in the given order; the caller has left out what is already there.

    Returns:
        What was stored, with cursors.
    """
    if not shipped:
        return []
    rows = [
        _row(one)
        | {
            "device_id": device_id,
            "fleet": fleet,
            "received_timestamp_s": received_timestamp_s,
            "model_digest": model_digest,
        }
        for one in shipped
    ]
    statement = insert(events).returning(events.c.cursor, sort_by_parameter_order=True)
    cursors = connection.execute(statement, rows).scalars()
    return [
        StoredEvent(cursor, device_id, fleet, one, received_timestamp_s, model_digest)
        for cursor, one in zip(cursors, shipped, strict=True)
    ]


def page(
    connection: Connection,
    query: EventQuery,
    *,
    cursor: int = 0,
    limit: int = MAX_PAGE,
    newest_first: bool = False,
) -> list[StoredEvent]:
    """Up to ``limit`` events that match, by cursor.

    Args:
        connection: Within a transaction.
        query: Which events.
        cursor: Those after it; with ``newest_first`` those before it, where 0 means the end.
        limit: At least 1; more than ``MAX_PAGE`` are never returned.
        newest_first: Whether cursors descend.
    """
    statement = query.narrow(select(events)).limit(min(limit, MAX_PAGE))
    if newest_first:
        statement = statement.order_by(events.c.cursor.desc())
        if cursor:
            statement = statement.where(events.c.cursor < cursor)
    else:
        statement = statement.order_by(events.c.cursor).where(events.c.cursor > cursor)
    return [_stored(row) for row in connection.execute(statement).mappings()]


def get(connection: Connection, event_id: str) -> StoredEvent:
    """The event with an id.

    Raises:
        InvalidInput: Not of the form ``DEVICE/EPOCH/SEQUENCE``.
        NotFound: No such event.
    """
    device_id, epoch, sequence = parse_id(event_id)
    statement = select(events).where(
        events.c.device_id == device_id,
        events.c.epoch == epoch,
        events.c.sequence == sequence,
    )
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise NotFound(f"there is no event {event_id}", "list them with `camctl events list`")
    return _stored(row)


def parse_id(event_id: str) -> tuple[str, int, int]:
    """Device, epoch and sequence of an event id.

    Raises:
        InvalidInput: Not of the form ``DEVICE/EPOCH/SEQUENCE``.
    """
    match = _ID.fullmatch(event_id)
    numbers = (int(match["epoch"]), int(match["seq"])) if match else (-1, -1)
    if match is None or max(numbers) > _MAX_INTEGER:
        raise InvalidInput(f"{event_id[:200]!r} is no event id", "it reads DEVICE/EPOCH/SEQUENCE")
    return match["device"], *numbers


def last_cursor(connection: Connection) -> int:
    """Cursor of the newest event, 0 if there is none."""
    newest = select(events.c.cursor).order_by(events.c.cursor.desc()).limit(1)
    return connection.execute(newest).scalar() or 0


def _row(shipped: ShippedEvent) -> dict[str, Any]:
    event = shipped.event
    x1, y1, x2, y2 = event.xyxy or (None,) * 4
    return {
        "epoch": shipped.epoch,
        "sequence": shipped.sequence,
        "camera_id": shipped.camera_id,
        "session": shipped.session,
        "kind": event.kind,
        "frame_index": event.frame_index,
        "timestamp_s": event.timestamp_s,
        "rule": event.rule,
        "track_id": event.track_id,
        "class_id": event.class_id,
        "class_name": event.class_name,
        "score": event.score,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "attributes": dict(event.attributes),
    }


def _stored(row: RowMapping) -> StoredEvent:
    has_box = row["x1"] is not None
    event = Event(
        kind=row["kind"],
        frame_index=row["frame_index"],
        timestamp_s=row["timestamp_s"],
        rule=row["rule"],
        track_id=row["track_id"],
        class_id=row["class_id"],
        class_name=row["class_name"],
        score=row["score"],
        xyxy=(row["x1"], row["y1"], row["x2"], row["y2"]) if has_box else None,
        attributes=row["attributes"],
    )
    shipped = ShippedEvent(row["epoch"], row["sequence"], row["camera_id"], row["session"], event)
    return StoredEvent(
        cursor=row["cursor"],
        device_id=row["device_id"],
        fleet=row["fleet"],
        shipped=shipped,
        received_timestamp_s=row["received_timestamp_s"],
        model_digest=row["model_digest"],
    )
