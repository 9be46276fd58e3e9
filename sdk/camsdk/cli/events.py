"""``camctl events``: what the rules saw, stored or as it happens."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from camsdk.cli.moments import show_moment
from camsdk.cli.options import (
    CameraFilter,
    DeviceFilter,
    FleetFilter,
    KindFilter,
    SinceOption,
    UntilOption,
)
from camsdk.cli.profile import Cloud, cloud_command
from camsdk.errors import InvalidInput

if TYPE_CHECKING:
    from camsdk.client import EventRecord

app = typer.Typer(help="Events: what the rules saw.", no_args_is_help=True)

PAGE = 1000
"""Events a call, the most that the cloud gives."""


def describe(event: "EventRecord") -> str:
    """What happened, in words: ``person #7 crossed entry (in)``."""
    details = ", ".join(f"{key} {value}" for key, value in sorted(event.attributes.items()))
    who = event.class_name + (f" #{event.track_id}" if event.track_id >= 0 else "")
    parts = [who, f"at {event.rule}" if event.rule else "", f"({details})" if details else ""]
    return " ".join(part for part in parts if part)


def _pages(cloud: Cloud, limit: int, **filters: Any) -> "tuple[list[EventRecord], int]":
    """At most ``limit`` events, page by page, and the cursor for more; 0 if there are none."""
    found: list[EventRecord] = []
    cursor = 0
    while True:
        page = cloud.client.list_events(
            limit=min(limit - len(found), PAGE), after_cursor=cursor, **filters
        )
        found.extend(page)
        cursor = page.next_cursor
        if not cursor or len(found) >= limit:
            return found, cursor


@cloud_command(app, "list")
def list_events(
    cloud: Cloud,
    fleet: FleetFilter = "",
    device: DeviceFilter = "",
    camera: CameraFilter = "",
    kind: KindFilter = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="Start with the first that arrived.")
    ] = False,
) -> None:
    """Lists stored events in the order in which they reached the cloud, the last first.

    That is not the order of their times: a camera that was away delivers late.
    """
    found, cursor = _pages(
        cloud,
        limit if cloud.out.is_json else limit + 1,  # one more: are there more?
        fleet=fleet,
        device=device,
        camera=camera,
        kinds=kind or (),
        since=since,
        until=until,
        newest_first=not oldest_first,
    )
    if cloud.out.is_json:
        cloud.out.json({"events": found, "next_cursor": cursor})
        return
    rows = [
        (show_moment(row.timestamp_s), row.kind, row.camera_id, describe(row), row.event_id)
        for row in found[:limit]
    ]
    headings = ("time", "=kind", "=camera", "what", "=event")
    cloud.out.table(headings, rows, "no events: `camctl events tail` shows them as they happen")
    if len(found) > limit:
        which = "first" if oldest_first else "last"
        cloud.out.note(
            f"only the {which} {limit} to arrive, there are more: --limit N shows N, --since, "
            "--until and the other filters narrow"
        )


@cloud_command(app, "tail")
def tail(
    cloud: Cloud,
    fleet: FleetFilter = "",
    device: DeviceFilter = "",
    camera: CameraFilter = "",
    kind: KindFilter = None,
    since: SinceOption = None,
    after_cursor: Annotated[
        int | None, typer.Option(min=0, help="Resume after this cursor; 0: everything stored.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many; 0: never.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after this time; 0: never.")] = 0,
) -> None:
    """Follows events as they happen, across lost connections; one a line, Ctrl-C ends it."""
    stream = cloud.client.events(
        fleet=fleet,
        device=device,
        camera=camera,
        kinds=kind or (),
        since=since,
        after_cursor=after_cursor,
        timeout_s=seconds or None,
    )
    if not cloud.out.is_json:
        cloud.out.note("waiting for events, Ctrl-C to stop")
    for count, event in enumerate(stream, 1):
        if cloud.out.is_json:
            cloud.out.json_line(event)
        else:
            moment = show_moment(event.timestamp_s)
            cloud.out.line(f"{moment}  {event.kind:<14} {event.camera_id}  {describe(event)}")
        if count == limit:
            break


def _save(path: Path, jpeg: bytes) -> int:
    try:
        return path.write_bytes(jpeg)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}", "name another place with --save-crop"
        ) from error


@cloud_command(app, "show")
def show(
    cloud: Cloud,
    event_id: Annotated[str, typer.Argument(help="DEVICE/EPOCH/SEQUENCE.")],
    save_crop: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write its picture (JPEG) to this file.")
    ] = None,
) -> None:
    """Shows all that is known of one event."""
    event = cloud.client.get_event(event_id)
    if save_crop is not None:
        size_bytes = _save(save_crop, cloud.client.event_crop(event))
        cloud.out.note(f"{save_crop}: JPEG of {size_bytes:,} bytes")
    if cloud.out.is_json:
        cloud.out.json(event)
        return
    box = "" if event.xyxy is None else " ".join(f"{value:.1f}" for value in event.xyxy)
    delay_ms = 1000 * (event.received_timestamp_s - event.timestamp_s)
    cloud.out.fields(
        {
            "event": event.event_id,
            "kind": event.kind,
            "what": describe(event),
            "time": show_moment(event.timestamp_s),
            "stored": f"{show_moment(event.received_timestamp_s)} ({delay_ms:.0f} ms later)",
            "fleet": event.fleet,
            "device": event.device_id,
            "camera": f"{event.camera_id}, session {event.session}, frame {event.frame_index}",
            "box": f"{box} px (x1 y1 x2 y2)" if box else "",
            "score": f"{event.score:.2f}" if event.score else "",
            "model": event.model_digest,
            "cursor": event.cursor,
        }
    )
